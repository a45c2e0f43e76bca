"""What of a PNG file is given to the decoder: the pixels, and the metadata that is used.

Everything else in the file is left out unread, so that nothing wrong with it can lose the picture.
Metadata that is broken or too large is left out as well, and pixels never are.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from pipeline.colour import (
    SRGB,
    Chromaticities,
    UnusableColour,
    matrix_profile,
    numbered_profile,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"

MAX_PROFILE_BYTES = 16 * 1024 * 1024
"""Of an ICC profile once it is unpacked. As many bytes as a JPEG has room for."""

_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT"})
_COLOURS = frozenset({b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"})
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_WITH_ORIENTATION = frozenset({b"XML:com.adobe.xmp", b"Raw profile type exif"})
"""Keywords of the texts in which Pillow looks for the orientation."""

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_WHOLE = ((0, 0, 1, 1),)
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""Of each pass the first column and row, and the steps between columns and rows."""


class BrokenPng(Exception):
    """Pixels of the file are missing or wrong."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    name: bytes
    body: bytes
    is_intact: bool

    def packed(self) -> bytes:
        checksum = zlib.crc32(self.body, zlib.crc32(self.name))
        return b"".join(
            (struct.pack(">I", len(self.body)), self.name, self.body, struct.pack(">I", checksum))
        )


class PngFile:
    """The chunks of a PNG file that are used."""

    def __init__(self, data: bytes) -> None:
        """Read the chunks; no pixel is decoded.

        Raises:
            BrokenPng: one that holds pixels is cut or has another checksum.
        """
        self._pixels: list[_Chunk] = []
        # By what they are about, of which Pillow takes the last: so there are few of them.
        self._metadata: dict[bytes, _Chunk] = {}
        self._colours: dict[bytes, bytes] = {}
        for chunk in _chunks(data):
            if chunk.name in _PIXELS:
                if not chunk.is_intact:
                    raise BrokenPng(f"A chunk {chunk.name!r} is broken.")
                self._pixels.append(chunk)
            elif chunk.is_intact and chunk.name in _COLOURS:
                self._colours[chunk.name] = chunk.body
            elif chunk.is_intact and (subject := _subject(chunk)):
                self._metadata[subject] = chunk

    @cached_property
    def reduced(self) -> bytes:
        """A PNG file of the pixels and the orientation alone."""
        header, *rest = self._pixels
        return _file(header, *filter(self._is_readable, self._metadata.values()), *rest)

    def check_pixels(self) -> None:
        """Unpack all pixels, and keep none.

        Raises:
            BrokenPng: there are fewer than the header says.
        """
        missing = _unpacked_bytes(self._pixels[0].body)
        unpack = zlib.decompressobj()
        for chunk in self._pixels:
            if chunk.name != b"IDAT":
                continue
            packed = chunk.body
            while packed and missing > 0:
                try:
                    missing -= len(unpack.decompress(packed, 1024 * 1024))
                except zlib.error as error:
                    raise BrokenPng("The pixels cannot be unpacked.") from error
                packed = unpack.unconsumed_tail
        if missing > 0:
            raise BrokenPng(f"{missing:,} bytes of pixels are missing.")

    def icc_profile(self) -> bytes | None:
        """What its colours are; None if they are sRGB, or it does not say.

        A profile counts before the numbers of cICP, beside which it stands for readers without
        HDR; then the order is that of the PNG specification.

        Raises:
            UnusableColour: its colours are none that can be converted.
        """
        colours = self._colours
        if b"iCCP" in colours:
            return _unpacked_profile(colours[b"iCCP"])
        if len(colours.get(b"cICP", b"")) == 4:
            primaries, transfer, *_ = colours[b"cICP"]
            return numbered_profile(primaries, transfer)
        if b"sRGB" in colours:
            return None
        return _measured_profile(colours.get(b"gAMA", b""), colours.get(b"cHRM", b""))

    def _is_readable(self, chunk: _Chunk) -> bool:
        """Whether Pillow takes the chunk, beside an empty picture."""
        try:
            Image.open(io.BytesIO(_file(self._pixels[0], chunk)), formats=("PNG",))
        # See `_decoding` in `pipeline.image`: no list of what it raises is complete.
        except Exception:
            return False
        return True


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Up to the chunk that ends the picture, or the one that the file's end cuts off."""
    start = len(SIGNATURE)
    while start + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        name, body = data[start + 4 : start + 8], data[start + 8 : start + 8 + length]
        if name == b"IEND":
            return
        start += 12 + length
        checksum = struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))
        yield _Chunk(name, body, data[start - 4 : start] == checksum)


def _file(*chunks: _Chunk) -> bytes:
    packed = [chunk.packed() for chunk in (*chunks, _Chunk(b"IEND", b"", True))]
    return b"".join((SIGNATURE, *packed))


def _subject(chunk: _Chunk) -> bytes | None:
    """What tells metadata that may hold the orientation from other such metadata; None if it is
    none."""
    if chunk.name == b"eXIf":
        return chunk.name
    keyword, _, _ = chunk.body[:80].partition(b"\0")
    return keyword if chunk.name in _TEXTS and keyword in _WITH_ORIENTATION else None


def _unpacked_bytes(header: bytes) -> int:
    """Bytes of all rows, each with the byte that names its filter."""
    width, height, depth, colour_type, *_, interlace = struct.unpack_from(">IIBBBBB", header)
    if colour_type not in _CHANNELS:
        raise BrokenPng(f"There is no colour type {colour_type}.")
    bits = depth * _CHANNELS[colour_type]
    total = 0
    for left, top, across, down in _ADAM7 if interlace else _WHOLE:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def _unpacked_profile(body: bytes) -> bytes:
    _, _, packed = body.partition(b"\0")
    unpack = zlib.decompressobj()
    try:
        # The first byte says how it is packed; there is one way.
        profile = unpack.decompress(packed[1:], MAX_PROFILE_BYTES)
    except zlib.error as error:
        raise UnusableColour("of a broken ICC profile") from error
    if unpack.unconsumed_tail:
        raise UnusableColour(f"of an ICC profile of more than {MAX_PROFILE_BYTES:,} bytes")
    return profile


def _measured_profile(gamma: bytes, chromaticities: bytes) -> bytes | None:
    """A profile from the chunks gAMA and cHRM, where they differ from sRGB visibly."""
    colours, exponent = SRGB, None
    if len(chromaticities) == 32:
        x_and_y = struct.unpack(">8I", chromaticities)
        points = [value / 100_000 for value in x_and_y]
        colours = Chromaticities(*zip(points[::2], points[1::2], strict=True))
    if len(gamma) == 4 and (value := struct.unpack(">I", gamma)[0]) > 0:
        exponent = 100_000 / value
    is_srgb_curve = exponent is None or abs(exponent - 2.2) < 0.05
    is_srgb = all(
        abs(a - b) < 0.005
        for one, other in zip(colours, SRGB, strict=True)
        for a, b in zip(one, other, strict=True)
    )
    if is_srgb and is_srgb_curve:
        return None
    return matrix_profile(colours, None if is_srgb_curve else exponent)
