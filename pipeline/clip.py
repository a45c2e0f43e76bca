"""Turn the end of a video file into five exact-size sRGB frames.

ffmpeg reads the file, from a descriptor and nothing else: `fd:` is the only protocol that it may
use, and the formats and codecs are listed. One run lists the packets, which takes no decoding, and
the next decodes from the last key frame that is early enough, which `pipeline.packets` finds. What
is not here: fetching the bytes, and the process that the server decodes in.
"""

import logging
import math
import os
import re
import resource
import subprocess
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import IO

from PIL import Image

from pipeline.child_process import CANNOT_START, program_command
from pipeline.errors import (
    ClipTooShort,
    ClipUnreadable,
    EncodingFailed,
    FileTooLarge,
    ImageTooLarge,
    InputError,
)
from pipeline.ffmpeg import find_ffmpeg
from pipeline.image import BACKGROUND, Tell, fill, tell_of_size
from pipeline.image_kind import kind_of
from pipeline.packets import Packets, Start
from pipeline.spec import CLIP_FRAMES, Pixels

ACCEPTED = "MP4, MOV, WebM, MKV, AVI, MPEG-TS or GIF"
"""The formats that are read, as sentences list them."""

MAX_BYTES = 200_000_000
MAX_PIXELS = 36_000_000
"""Of a frame."""

CPU_S = 60.0
"""Processor time that ffmpeg may take for one clip."""

_FORMATS = "mov,matroska,avi,mpegts,gif"
_CODECS = (
    "h264,hevc,vp8,vp9,libdav1d,av1,mpeg1video,mpeg2video,mpeg4,msmpeg4v2,msmpeg4,h263,mjpeg,"
    "prores,dnxhd,ffv1,theora,qtrle,rawvideo,gif"
)
_HDR = re.compile(r"\b(smpte2084|arib-std-b67)\b")
_MATRIX = re.compile(r"(?:^|, )(bt709|bt470bg|smpte170m|smpte240m|fcc|bt2020n?c|gbr)\b")
_STREAM = re.compile(r"^ *Stream #.*: Video: .*?, \w+(?:\(([^)]*)\))?, \d+x\d+", re.MULTILINE)
"""What ffmpeg says of a stream: its group is the range, and matrix/primaries/transfer."""

_NO_MEMORY = re.compile(
    r"Cannot allocate memory|Failed to allocate|get_buffer\(\) failed"
    r"|Resource temporarily unavailable"  # of a thread, for which there is no address space
)
_NOT_OURS = re.compile(r"^(fd:.*: Protocol not found|Unrecognized option|Unknown encoder)", re.M)
"""What an ffmpeg says that cannot do what ours does. What a file has in it is indented."""

_HD_LINES = 720

_LOG_BYTES = 64 * 1024
"""Of what one run of ffmpeg says."""

_TOO_MUCH_MEMORY = (
    "The video cannot be decoded in the memory that this server has for it. Send a smaller one."
)

_KINDS = frozenset({None, "a video", "a GIF file"})
"""What a file that is broken may be, by its first bytes; others are files of another kind."""

# The standard library's, as in `pipeline.image`.
log = logging.getLogger(__name__)


def prepare(
    file: IO[bytes],
    width: int,
    height: int,
    *,
    field: str = "video_url",
    tell: Tell = log.warning,
    fps: int | None = None,
    cpu_s: float = CPU_S,
) -> tuple[Pixels, ...]:
    """Decode the last five frames of a video into `width` x `height` pixels of sRGB each.

    They are those that are shown last, in the order in which they are shown, however long each is;
    or, with `fps`, those that are shown at the last five moments of as many a second: one that is
    shown for longer comes several times. They are turned upright, their pixels made square, and
    scaled and cropped as pictures are, and laid on white where they are transparent. Colours are
    converted by the matrix and the range that the file names; where it names no matrix, 720 lines
    or more are BT.709 and fewer are BT.601. HDR (PQ and HLG) is mapped to the range of sRGB. Sound
    is not read.

    Args:
        file: open for reading and seekable, with a descriptor; ffmpeg moves its position.
        tell: called with what its sender may not expect: much is cropped or enlarged.
        fps: frames a second at which the video is taken; None is its own rate.
        cpu_s: seconds of processor time that ffmpeg may take.

    Raises:
        FileTooLarge: more than 200 MB; nothing was decoded, as with the next one.
        ImageTooLarge: more than 36 megapixels a frame.
        ClipTooShort: fewer than five frames, or with `fps` fewer than five moments.
        ClipUnreadable: the file is broken, no video, or one that we do not read, or decoding it
            takes too long or too much memory.
        EncodingFailed: there is no ffmpeg, or it cannot do what ours can.
    """
    reader = _Reader(file, field, cpu_s)
    reader.check_size()
    try:
        return _prepared(reader, width, height, tell, fps)
    except MemoryError as error:
        raise ClipUnreadable(field, _TOO_MUCH_MEMORY) from error


def _prepared(
    reader: "_Reader", width: int, height: int, tell: Tell, fps: int | None
) -> tuple[Pixels, ...]:
    listing = reader.list_packets(fps)
    size = (width, height)
    frames: deque[Pixels] = deque(maxlen=CLIP_FRAMES)
    # If that is not enough, the packets did not tell the truth: then all frames are decoded.
    for start in dict.fromkeys((listing.start, None)):
        frames.clear()
        try:
            for frame in reader.decode(listing, start):
                size = frame.size
                frames.append(Pixels(width, height, fill(frame, width, height).tobytes()))
        except ClipUnreadable:
            if start is None:
                raise
            continue
        if len(frames) == CLIP_FRAMES:
            tell_of_size("video", size, (width, height), tell)
            return tuple(frames)
    if not frames:
        raise reader.refusal()
    raise reader.too_short(f"{len(frames)} of the video's frames can be decoded")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    """What is to be decoded, and how it is shown.

    `start` is None if all frames have to be decoded. With `fps`, frames are taken at that rate from
    the time `moment` on.
    """

    start: Start | None
    fps: int | None
    moment: Fraction | None
    is_hdr: bool
    is_untagged_hd: bool


class _Reader:
    """Runs ffmpeg on one file. What it says is kept, for the error."""

    def __init__(self, file: IO[bytes], field: str, cpu_s: float) -> None:
        self._file = file
        self._field = field
        self._cpu_ends_at = _children_cpu_s() + cpu_s
        self._cpu_s = cpu_s
        self._said = ""

    def check_size(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        if size > MAX_BYTES:
            raise FileTooLarge(
                self._field,
                f"The video is {size:,} bytes; the limit is {MAX_BYTES:,}.",
                {"max_size": MAX_BYTES},
            )

    def list_packets(self, fps: int | None) -> _Listing:
        """Read the packets of the first video stream that is no cover picture."""
        arguments = ["-loglevel", "info", *self._input(), "-c", "copy", "-f", "framecrc", "pipe:1"]
        with self._ffmpeg(arguments) as output:
            packets = Packets.read(output)
        if "dimensions" not in packets.facts:
            raise self.refusal()
        width, height = map(int, packets.facts["dimensions"].split("x"))
        self._check_pixels(width, height)
        moment = None if fps is None else self._moment(packets, fps)
        # The last is what ffmpeg says of its output, which has the stream that was chosen alone.
        colours = (_STREAM.findall(self._said) or [""])[-1]
        return _Listing(
            start=packets.start(moment),
            fps=fps,
            moment=moment,
            is_hdr=_HDR.search(colours) is not None,
            is_untagged_hd=height >= _HD_LINES and _MATRIX.search(colours) is None,
        )

    def _moment(self, packets: Packets, fps: int) -> Fraction:
        count = packets.num_moments(fps)
        if count < CLIP_FRAMES:
            raise self.too_short(f"At {fps} frames a second the video has {count}")
        return packets.moment(fps, CLIP_FRAMES)

    def decode(self, listing: _Listing, start: Start | None) -> Iterator[Image.Image]:
        """The frames from `start` on, or all of them, upright and with square pixels."""
        seek = ["-ss", _seconds(start.key)] if start else []
        most = ["-frames:v", str(CLIP_FRAMES)] if listing.fps else []
        arguments = [
            *("-loglevel", "error"),
            # The frames may be larger than the header that was checked says.
            *self._input("-max_pixels", str(MAX_PIXELS), *seek),
            *("-fps_mode", "passthrough", "-vf", _filters(listing, start)),
            *most,
            *("-c:v", "pam", "-f", "image2pipe", "pipe:1"),
        ]
        with self._ffmpeg(arguments) as output:
            while (size := _frame_size(output)) is not None:
                self._check_pixels(*size)
                data = output.read(size[0] * size[1] * 4)
                if len(data) < size[0] * size[1] * 4:
                    return
                yield _flat(Image.frombytes("RGBA", size, data))

    def too_short(self, what: str) -> ClipTooShort:
        message = f"{what}; {CLIP_FRAMES} are needed."
        return ClipTooShort(self._field, message, {"min_frames": CLIP_FRAMES})

    def refusal(self) -> InputError:
        """The error for a file that gives no frames, which says why, as far as that is known.

        Raises:
            EncodingFailed: this ffmpeg is at fault.
        """
        if (wrong := _NOT_OURS.search(self._said)) is not None:
            raise EncodingFailed(f"This ffmpeg cannot read clips: {wrong[0]}.")
        return ClipUnreadable(self._field, self._reason())

    def _reason(self) -> str:
        if _children_cpu_s() >= self._cpu_ends_at:
            return (
                f"Decoding the end of the video takes more than {self._cpu_s:.0f} seconds. "
                "Send a shorter or smaller one."
            )
        if _NO_MEMORY.search(self._said):
            return _TOO_MUCH_MEMORY
        kind = kind_of(os.pread(self._file.fileno(), 1024, 0))
        if kind not in _KINDS:
            return f"The file is {kind}, and no video that is read. Send an {ACCEPTED} file."
        return (
            "The video cannot be read: it is broken, cut short, has no pictures, or is coded in a "
            f"way that this server does not read. Send a whole {ACCEPTED} file."
        )

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            # As with pictures: fal's context speaks of sides.
            side = math.isqrt(MAX_PIXELS)
            raise ImageTooLarge(
                self._field,
                f"The frames of the video are {width:,}x{height:,} pixels; they may have "
                f"{MAX_PIXELS // 1_000_000} megapixels. Send a smaller one.",
                {"max_height": side, "max_width": side},
            )

    def _input(self, *options: str) -> list[str]:
        """The options that open the file: at its first byte, and nothing else."""
        lists = ["-protocol_whitelist", "fd", "-format_whitelist", _FORMATS]
        lists += ["-codec_whitelist", _CODECS, "-threads", "1"]
        # What is cut short is used as far as it is whole.
        return [*lists, "-fflags", "+discardcorrupt", *options, "-i", "fd:", "-map", "0:V:0"]

    @contextmanager
    def _ffmpeg(self, arguments: Sequence[str]) -> Iterator[IO[bytes]]:
        """Run ffmpeg on the file; its output.

        If ffmpeg fails or takes too long, which is known at its end, that raises the refusal: the
        output may be a part of what it should be.
        """
        left = math.ceil(self._cpu_ends_at - _children_cpu_s())
        if left <= 0:
            raise self.refusal()
        os.lseek(self._file.fileno(), 0, os.SEEK_SET)
        options = ["-hide_banner", "-nostdin", "-filter_threads", "1"]
        with (
            subprocess.Popen(
                program_command([find_ffmpeg(), *options, *arguments]),
                stdin=self._file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process,
            ThreadPoolExecutor(1, "ffmpeg-log") as listener,
        ):
            assert process.stdout is not None
            assert process.stderr is not None
            said = listener.submit(_head_of, process.stderr)
            try:
                # At the first limit ffmpeg ends by itself; at the second it is killed.
                resource.prlimit(process.pid, resource.RLIMIT_CPU, (left, left + 1))
                yield process.stdout
                process.wait()
            finally:
                process.kill()
                self._said = said.result().decode(errors="replace")
        if process.returncode == CANNOT_START:
            raise EncodingFailed(f"ffmpeg could not be started: {self._said.strip()}")
        # Frames for which there is no memory are left out, and ffmpeg goes on.
        if process.returncode != 0 or _NO_MEMORY.search(self._said):
            raise self.refusal()


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _head_of(pipe: IO[bytes]) -> bytes:
    """The first bytes, once all were read."""
    head = pipe.read(_LOG_BYTES)
    while pipe.read(_LOG_BYTES):
        pass
    return head


def _seconds(time: Fraction) -> str:
    # Rounded up, or the key frame before it would be found.
    return f"{-(-time * 1_000_000 // 1) / 1_000_000:.6f}"


def _filters(listing: _Listing, start: Start | None) -> str:
    filters = []
    if start is not None:
        # What comes before is decoded, but not converted.
        filters.append(f"trim=start={_seconds(start.wanted - start.key)}")
    if listing.moment is not None:
        began = listing.moment - (start.key if start else 0)
        # At each moment the last frame that has been shown by then. The last one is made to go on,
        # or `fps` would leave it out.
        filters += [
            "tpad=stop_mode=clone:stop_duration=1",
            "settb=AVTB",
            f"fps={listing.fps}:round=up:start_time={_seconds(began)}",
        ]
    if listing.is_hdr:
        # 203 cd/m² is the white of SDR within HDR (ITU-R BT.2408).
        filters += [
            "zscale=t=linear:npl=203",
            "format=gbrpf32le",
            "zscale=p=bt709",
            "tonemap=mobius:desat=0",
            "zscale=t=bt709:m=gbr:r=full",
        ]
    elif listing.is_untagged_hd:
        filters.append("setparams=colorspace=bt709")
    return ",".join(
        [
            *filters,
            "scale=w=iw*sar:h=ih:flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp",
            "format=rgba",
        ]
    )


def _frame_size(output: IO[bytes]) -> tuple[int, int] | None:
    """Read the header of a PAM picture: its width and height; None at the end."""
    header: dict[bytes, bytes] = {}
    while (line := output.readline(100).strip()) != b"ENDHDR":
        if not line:
            return None
        name, _, header[name] = line.partition(b" ")
    return int(header[b"WIDTH"]), int(header[b"HEIGHT"])


def _flat(frame: Image.Image) -> Image.Image:
    """The frame as RGB, on white where it is transparent."""
    alpha = frame.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return frame.convert("RGB")
    flat = Image.new("RGB", frame.size, BACKGROUND)
    flat.paste(frame, mask=alpha)
    return flat
