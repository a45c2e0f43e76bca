"""Video files for tests, made by ffmpeg."""

import struct
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.ffmpeg import find_ffmpeg

H264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p"
"""Options of an ordinary clip."""


def ffmpeg(*arguments: str | Path) -> bytes:
    """Run ffmpeg; what it writes to stdout."""
    command = [find_ffmpeg(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout


@cache
def clip(
    name: str = "clip.mp4",
    options: str = H264,
    *,
    source: str = "testsrc2=s=96x64:r=16:d=3",
    before: str = "",
) -> bytes:
    """A file, whose name says its format.

    Args:
        options: how it is encoded.
        source: what it shows, as a source of ffmpeg's filters.
        before: options of the source.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        ffmpeg(*before.split(), "-f", "lavfi", "-i", source, *options.split(), path)
        return path.read_bytes()


@cache
def copied(data: bytes, name: str, before: str = "", options: str = "") -> bytes:
    """The clip in another file, with its pictures as they are; `before` are options of reading."""
    with TemporaryDirectory() as folder:
        given, path = Path(folder) / "given", Path(folder) / name
        given.write_bytes(data)
        ffmpeg(*before.split(), "-i", given, "-c", "copy", *options.split(), path)
        return path.read_bytes()


def without_its_media(mov: bytes, path: Path) -> bytes:
    """A MOV whose media are those of the file `path`, as a Macintosh alias names it."""
    name = bytes(path) + bytes(len(bytes(path)) % 2)
    alias = [bytes(150), struct.pack(">HH", 2, len(name)), name, b"\xff\xff\0\0"]
    reference = _box(b"alis", bytes(4), *alias)
    references = _box(b"dref", bytes(4), struct.pack(">I", 1), reference)
    outer = [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"]
    emptied = _with_box(mov, outer, references)
    media = emptied.index(b"mdat")
    (size,) = struct.unpack_from(">I", emptied, media - 4)
    return emptied[: media + 4] + bytes(size - 8) + emptied[media - 4 + size :]


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def _with_box(data: bytes, kinds: Sequence[bytes], new: bytes) -> bytes:
    """The boxes with a new one, in place of that which lies within boxes of these kinds."""
    boxes, place = [], 0
    while place < len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        box = data[place : place + size]
        if kind == kinds[0]:
            box = new if len(kinds) == 1 else _box(kind, _with_box(box[8:], kinds[1:], new))
        boxes.append(box)
        place += size
    return b"".join(boxes)


def last_frames(data: bytes, width: int = 96, height: int = 64, count: int = 5) -> list[bytes]:
    """The last frames of a clip, all of it decoded, as RGB of their own size."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "given"
        path.write_bytes(data)
        colours = "scale=flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp,format=rgba"
        shown = ["-fps_mode", "passthrough", "-vf", f"{colours},format=rgb24"]
        rgb = ffmpeg("-i", path, *shown, "-f", "rawvideo", "pipe:1")
    size = width * height * 3
    frames = [rgb[start : start + size] for start in range(0, len(rgb), size)]
    return frames[-count:]
