"""What can go wrong while a video is made: each error has a code and a sentence.

The codes of input errors are fal's own, so the server can hand them out unchanged. No torch here.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class PipelineError(Exception):
    """Something went wrong; the message is a sentence for the person who asked for the video."""

    code: ClassVar[str] = "internal_error"


class InputError(PipelineError):
    """The caller's input cannot be used: `field` names the input, `context` the limits broken."""

    code: ClassVar[str] = "value_error"

    def __init__(self, field: str, message: str, context: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.context: dict[str, Any] = dict(context or {})


class InvalidSpec(InputError):
    """A value of the VideoSpec is out of range."""


class ImageUnreadable(InputError):
    """The bytes are not a picture that we can decode."""

    code = "image_load_error"


class ImageTooLarge(InputError):
    """The picture, or each of a video, has more pixels than we are willing to decode."""

    code = "image_too_large"


class ClipUnreadable(InputError):
    """The bytes are not a video that we can decode."""

    code = "unsupported_video_format"


class ClipTooShort(InputError):
    """The video has fewer frames than the model continues."""

    code = "video_duration_too_short"


class FileTooLarge(InputError):
    """The file has more bytes than we are willing to read."""

    code = "file_too_large"


class ContentPolicyViolation(InputError):
    """The guardrail refused the prompt, a picture or a frame.

    The error is the same whichever it was, in fal's words: a caller is not told what to change
    to get past it.
    """

    code = "content_policy_violation"

    def __init__(self) -> None:
        super().__init__(
            "prompt",
            "The content could not be processed because it contained material flagged by a "
            "content checker.",
        )


class Cancelled(PipelineError):
    """The caller cancelled the video; work stopped at the next check."""

    code = "cancelled"


class OutOfMemory(PipelineError):
    """There is too little memory, on the device or the host, for this video or for the model."""

    code = "out_of_memory"


class EncodingFailed(PipelineError):
    """ffmpeg failed; the message ends with the last lines it wrote to stderr."""

    code = "encoding_failed"


class EncoderKilled(EncodingFailed):
    """ffmpeg was killed from outside, as where memory is short: the video is not at fault."""

    code = "encoder_killed"


class RankFailed(Exception):
    """One of several processes that share a network's work has failed: none of them can go on."""
