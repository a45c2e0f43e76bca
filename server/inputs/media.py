"""What a request may be made from: pictures and videos, and how large each may be."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline import clip, image, image_kind
from pipeline.errors import ClipUnreadable, FileTooLarge, ImageUnreadable, InputError
from pipeline.spec import CLIP_FRAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What decoding one file may cost.

    `deadline_s` counts from the start of the process, on a machine that may be busy with other
    things.
    """

    memory_bytes: int = 1024**3
    cpu_s: int = 30
    deadline_s: float = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """A kind of file that a request may name.

    Attributes:
        noun: what sentences call one.
        accepted: the formats, as sentences list them.
        max_bytes: the size of a file.
        fetch_s: seconds that one may take to arrive from a URL.
        num_pictures: the prepared pictures that are made of one.
        unreadable: the error for one that cannot be decoded.
    """

    noun: str
    accepted: str
    max_bytes: int
    fetch_s: float
    num_pictures: int
    unreadable: type[InputError]
    limits: DecodeLimits

    def too_large(self, field: str) -> FileTooLarge:
        """The error for a file with more bytes than one may have."""
        return FileTooLarge(
            field,
            f"The file is larger than {self.max_bytes:,} bytes, which is the limit for "
            f"{self.noun}s.",
            {"max_size": self.max_bytes},
        )


MEDIA: Mapping[str, Medium] = {
    "image": Medium(
        noun="picture",
        accepted=image_kind.ACCEPTED,
        max_bytes=image.MAX_BYTES,
        fetch_s=30.0,
        num_pictures=1,
        unreadable=ImageUnreadable,
        # The hungriest picture that we accept, a WebP of 50 megapixels, was measured to take 700
        # to 800 MiB and a second.
        limits=DecodeLimits(),
    ),
    "video": Medium(
        noun="video",
        accepted=clip.ACCEPTED,
        max_bytes=clip.MAX_BYTES,
        fetch_s=300.0,
        num_pictures=CLIP_FRAMES,
        unreadable=ClipUnreadable,
        limits=DecodeLimits(memory_bytes=2 * 1024**3, cpu_s=int(clip.CPU_S)),
    ),
}
"""By the names that a job's media have."""
