"""Picture files made for the tests, and what becomes of them."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from paths import ROOT
from PIL import Image

from pipeline.image import prepare

WIDTH, HEIGHT = 96, 64
ORANGE = (230, 120, 40)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def printed_by(code: str, data: bytes, folder: Path) -> str:
    """What a Python program prints in a process of its own, which is given a file of the data."""
    (path := folder / "picture").write_bytes(data)
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def prepared(data: bytes, width: int = WIDTH, height: int = HEIGHT) -> npt.NDArray[np.uint8]:
    """[height, width, 3]"""
    pixels = prepare(data, width, height)
    assert (pixels.width, pixels.height) == (width, height)
    return np.frombuffer(pixels.rgb, np.uint8).reshape(height, width, 3)


def assert_plain(data: bytes, colour: tuple[int, int, int], tolerance: int = 0) -> None:
    """Every pixel of the prepared picture is `colour`."""
    difference = prepared(data).astype(int) - np.array(colour)
    assert np.abs(difference).max() <= tolerance, difference[0, 0]


def scene(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A smooth picture with no symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    planes = (x * 255 / (width - 1), y * 255 / (height - 1), (x + y) * 127 / (width + height))
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8), "RGB")


def waves(width: int, height: int) -> Image.Image:
    """Twelve waves across and eight down: a shift or a blur of a pixel of the frame shows."""
    y, x = np.mgrid[0:height, 0:width]
    across = np.sin(x / width * 24 * np.pi)
    down = np.sin(y / height * 16 * np.pi)
    return Image.fromarray(np.rint(127.5 + 60 * (across + down)).astype(np.uint8))


def plain(mode: str, colour: int | tuple[int, ...]) -> Image.Image:
    return Image.new(mode, (WIDTH, HEIGHT), colour)


def palette_with_half_transparency() -> bytes:
    """Index 0 is black at alpha 0, index 1 is orange at alpha 255."""
    image = Image.new("P", (WIDTH, HEIGHT), 1)
    image.putpalette([0, 0, 0, *ORANGE])
    image.paste(0, (0, 0, WIDTH // 2, HEIGHT))
    return encoded(image, "PNG", transparency=b"\x00\xff")


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int, colour_type: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = (png_chunk(b"IHDR", header), *chunks, png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_rows(*rows: bytes) -> bytes:
    return png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))


def icc_profile(device_class: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A version 2 ICC profile: a header of 128 bytes, the table of tags, the tags."""
    tags = {b"wtpt": xyz(0.9642, 1.0, 0.8249), **tags}
    offset = 128 + 4 + 12 * len(tags)
    table, bodies = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += struct.pack(">4sII", name, offset + len(bodies), len(body))
        bodies += body + bytes(-len(body) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12s4s28sIII",
        offset + len(bodies),
        b"lcms",
        0x02400000,
        device_class,
        space,
        pcs,
        bytes(12),
        b"acsp",
        bytes(28),
        *(round(value * 65536) for value in (0.9642, 1.0, 0.8249)),
    )
    return header.ljust(128, b"\0") + table + bodies


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(value * 65536) for value in values))


def gamma(exponent: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256))


# Columns are the primaries' XYZ adapted to D50: of sRGB, and of Adobe RGB (1998).
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
ADOBE = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)


def rgb_profile(primaries: npt.NDArray[np.float64], exponent: float) -> bytes:
    tags = {name + b"TRC": gamma(exponent) for name in (b"r", b"g", b"b")}
    tags |= {
        name + b"XYZ": xyz(*column)
        for name, column in zip((b"r", b"g", b"b"), primaries.T, strict=True)
    }
    return icc_profile(b"mntr", b"RGB ", b"XYZ ", tags)
