"""Files that are good but for what no pixel needs, and what is said of the others."""

import random
import struct
import zlib

import numpy as np
import pytest
from image_files import (
    HEIGHT,
    ORANGE,
    SRGB,
    WIDTH,
    assert_plain,
    encoded,
    plain,
    png,
    png_chunk,
    png_rows,
    prepared,
    rgb_profile,
    scene,
)
from PIL import ExifTags, Image

from pipeline.errors import ImageUnreadable
from pipeline.image import prepare

MIB = 1024 * 1024
PNG_HEADER = 33
"""Bytes of a PNG file up to the end of its header."""


def orange_with(*chunks: bytes) -> bytes:
    """An orange PNG with the chunks behind its header."""
    data = encoded(plain("RGB", ORANGE), "PNG")
    return data[:PNG_HEADER] + b"".join(chunks) + data[PNG_HEADER:]


def with_bad_checksum(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes((chunk[-1] ^ 1,))


def told_of(data: bytes, width: int = WIDTH, height: int = HEIGHT) -> list[str]:
    told: list[str] = []
    prepare(data, width, height, tell=told.append)
    return told


# PNG.

LARGE_TEXT = zlib.compress(b"x" * 3 * MIB)
ODDITIES = {
    "a comment of a wrong checksum": with_bad_checksum(png_chunk(b"tEXt", b"Comment\0a camera")),
    "a text above 1 MiB": png_chunk(b"zTXt", b"Comment\0\0" + LARGE_TEXT),
    "XMP above 1 MiB": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE_TEXT),
    "EXIF in a text above 1 MiB": png_chunk(b"zTXt", b"Raw profile type exif\0\0" + LARGE_TEXT),
    "texts above 64 MiB": png_chunk(b"zTXt", b"Raw profile type exif\0\0" + LARGE_TEXT) * 30,
    "a text in an unknown packing": png_chunk(b"zTXt", b"Comment\0\1abc"),
    "a profile of a wrong checksum": with_bad_checksum(png_chunk(b"iCCP", b"icc\0\0abc")),
    "a profile that is cut": png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(999))[:9]),
    "a profile above 16 MiB": png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(17 * MIB))),
    "a profile in an unknown packing": png_chunk(b"iCCP", b"icc\0\1abc"),
    "a profile without a name": png_chunk(b"iCCP", b"icc"),
    "EXIF data of a wrong checksum": with_bad_checksum(png_chunk(b"eXIf", b"MM\0*")),
    "a short gamma": png_chunk(b"gAMA", b"\0"),
    "a gamma of zero": png_chunk(b"gAMA", bytes(4)),
    "impossible primaries": png_chunk(b"cHRM", bytes(32)),
    "unknown primaries": png_chunk(b"cICP", b"\x63\x0d\0\1"),
    "a size in no unit": png_chunk(b"pHYs", b"\0"),
    "an animation that is cut": png_chunk(b"acTL", b"\0"),
    "frames out of order": png_chunk(b"fcTL", bytes(26)) * 2,
    "a chunk that nobody knows": with_bad_checksum(png_chunk(b"juNk", b"abc")),
}


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("chunks", ODDITIES.values(), ids=ODDITIES.keys())
def test_metadata_that_cannot_be_used_does_not_lose_a_png(chunks: bytes, place: str) -> None:
    data = orange_with(chunks)
    if place == "behind":
        whole = orange_with()
        data = whole[:-12] + chunks + whole[-12:]

    assert_plain(data, ORANGE)


def test_a_profile_above_one_mebibyte_is_used() -> None:
    profile = rgb_profile(SRGB[:, [1, 0, 2]], 2.2) + bytes(2 * MIB)

    assert_plain(encoded(plain("RGB", (255, 0, 0)), "PNG", icc_profile=profile), (0, 255, 0), 1)


XMP = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>'
UPSIDE_DOWN = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0"


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"iTXt", XMP),
        png_chunk(b"eXIf", UPSIDE_DOWN),
        png_chunk(
            b"tEXt", b"Raw profile type exif\0\nexif\n26\n" + UPSIDE_DOWN.hex().encode() + b"\n"
        ),
    ],
    ids=["XMP", "eXIf", "text"],
)
@pytest.mark.parametrize("place", ["before", "behind"])
def test_the_orientation_of_a_png_is_found_wherever_it_is(chunk: bytes, place: str) -> None:
    image = scene()
    data = encoded(image, "PNG")
    at = PNG_HEADER if place == "before" else len(data) - 12

    result = prepared(data[:at] + chunk + data[at:])

    assert np.array_equal(result, np.asarray(image)[::-1, ::-1])


def interlaced(rows: int) -> bytes:
    """A white picture of 9x7 pixels in seven passes, of which the first `rows` rows are there."""
    widths = [2, 1, 3, 2, 5, 4, 9]
    counts = [1, 1, 1, 2, 2, 4, 3]
    all_rows = [width for width, count in zip(widths, counts, strict=True) for _ in range(count)]
    packed = zlib.compress(b"".join(b"\0" + b"\xff" * width for width in all_rows[:rows]))
    header = struct.pack(">IIBBBBB", 9, 7, 8, 0, 0, 0, 1)
    chunks = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", packed), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_all_passes_of_an_interlaced_png_are_wanted() -> None:
    assert_plain(interlaced(14), (255, 255, 255))
    with pytest.raises(ImageUnreadable):
        prepare(interlaced(13), WIDTH, HEIGHT)


def test_a_png_without_its_last_chunk_has_all_its_pixels() -> None:
    assert_plain(orange_with()[:-12], ORANGE)


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"tRNS", b"IDAT"])
def test_what_makes_the_pixels_of_a_png_must_be_intact(name: bytes) -> None:
    chunks = {
        b"PLTE": png_chunk(b"PLTE", bytes(range(6))),
        b"tRNS": png_chunk(b"tRNS", b"\0"),
        b"IDAT": png_rows(*[bytes(64)] * 64),
    }
    data = png(64, 64, 8, 3, *chunks.values())
    prepare(data, WIDTH, HEIGHT)
    start = data.index(name)
    end = start + 4 + struct.unpack_from(">I", data, start - 4)[0]

    for place in (start + 4, end):
        changed = data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :]
        with pytest.raises(ImageUnreadable):
            prepare(changed, WIDTH, HEIGHT)


# JPEG.

PICTURES = {
    "scene": scene(120, 90),
    "noise": Image.effect_noise((90, 60), 80).convert("RGB"),
    "grey": scene(120, 90).convert("L"),
    "plain": Image.new("RGB", (100, 80), (200, 30, 60)),
    "middle grey": Image.new("L", (100, 80), 128),
    "CMYK": scene(120, 90).convert("CMYK"),
}
WAYS: dict[str, dict[str, object]] = {
    "baseline": {},
    "optimized": {"optimize": True},
    "progressive": {"progressive": True},
    "fine": {"progressive": True, "quality": 100, "subsampling": 0},
    "restarts by row": {"restart_marker_rows": 1},
    "restarts": {"restart_marker_blocks": 3},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("picture", PICTURES)
def test_a_jpeg_may_lack_its_end_marker_and_nothing_else(picture: str, way: str) -> None:
    data = encoded(PICTURES[picture], "JPEG", **WAYS[way])
    size = PICTURES[picture].size
    whole = prepare(data, *size)
    ends = {*range(len(data) - 40, len(data)), *random.Random(0).sample(range(len(data)), 40)}

    for end in sorted(ends):
        try:
            cut = prepare(data[:end], *size)
        except ImageUnreadable:
            assert end < len(data) - 2, "all the pixels were there"
        else:
            assert cut == whole, f"{len(data) - end} bytes were missing"


def test_a_progressive_jpeg_without_its_last_scan_is_refused() -> None:
    data = encoded(scene(200, 150), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    tables = data.rindex(b"\xff\xc4", 0, last)

    for end in (tables, last):
        with pytest.raises(ImageUnreadable, match="JPEG file that is broken or cut short"):
            prepare(data[:end], WIDTH, HEIGHT)


def test_an_end_marker_in_a_preview_is_not_the_pictures() -> None:
    preview = encoded(scene(16, 16), "JPEG")
    data = encoded(scene(200, 150), "JPEG", exif=b"Exif\0\0" + preview)

    assert prepare(data[:-2], WIDTH, HEIGHT) == prepare(data, WIDTH, HEIGHT)
    with pytest.raises(ImageUnreadable):
        prepare(data[:-9], WIDTH, HEIGHT)


# AVIF.


def test_an_avif_keeps_its_colours_transparency_and_orientation() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    image = scene(WIDTH * 2, HEIGHT * 2)

    turned = prepared(encoded(image, "AVIF", quality=100, subsampling="4:4:4", exif=exif))

    assert np.abs(turned.astype(int)[::-1, ::-1] - prepared(encoded(image, "PNG"))).max() <= 3
    assert_plain(encoded(plain("RGBA", (255, 0, 0, 51)), "AVIF", quality=100), (255, 204, 204), 3)


def test_an_avif_animation_gives_its_first_frame() -> None:
    frames = [plain("RGB", ORANGE), plain("RGB", (0, 0, 255))]
    data = encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:], quality=95)

    assert_plain(data, ORANGE, 4)


# What is said.


def boxed(*brands: bytes) -> bytes:
    box = b"ftyp" + brands[0] + bytes(4) + b"".join(brands)
    return struct.pack(">I", len(box) + 4) + box + bytes(64)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (boxed(b"heic", b"mif1"), "a HEIC file"),
        (boxed(b"mif1", b"heic"), "a HEIC file"),
        (boxed(b"isom", b"mp42"), "a video"),
        (encoded(scene(), "BMP"), "a BMP file"),
        (encoded(scene(), "TIFF"), "a TIFF or camera raw file"),
        (encoded(scene(), "JPEG2000"), "a JPEG 2000 file"),
        (encoded(scene(), "ICO"), "an icon"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL file"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"PK\3\4", "a ZIP archive"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<svg xmlns="x"/>', "an SVG drawing"),
        (b"\n<!DOCTYPE html><html>404</html>", "an HTML page"),
    ],
    ids=range(13),
)
def test_a_file_of_another_kind_is_named_with_what_to_send(data: bytes, kind: str) -> None:
    with pytest.raises(ImageUnreadable) as refused:
        prepare(data, WIDTH, HEIGHT)

    assert str(refused.value) == (
        f"The image is {kind}, which this server does not read. "
        "Send a JPEG, PNG, WebP, GIF or AVIF file."
    )


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ((96, 64), None),
        ((128, 96), None),
        ((60, 64), "of the picture is cropped away"),
        ((96, 170), "62% of the picture is cropped away"),
        ((300, 64), "68% of the picture is cropped away"),
        ((24, 16), None),
        ((9, 6), "enlarged 11 times"),
    ],
)
def test_much_that_is_cropped_or_enlarged_is_told(size: tuple[int, int], told: str | None) -> None:
    sentences = told_of(encoded(Image.new("RGB", size), "PNG"))

    assert len(sentences) == (told is not None)
    assert all(told in sentence for sentence in sentences if told)


def test_what_is_cropped_is_told_of_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6

    assert told_of(encoded(Image.new("RGB", (64, 96)), "JPEG", exif=exif)) == []
    assert len(told_of(encoded(Image.new("RGB", (170, 96)), "JPEG", exif=exif))) == 1


def test_unusable_metadata_is_told() -> None:
    broken = orange_with(png_chunk(b"eXIf", b"XXXX"), ODDITIES["a profile above 16 MiB"])

    profile, exif = told_of(broken)

    assert "16,777,216" in profile
    assert "EXIF" in exif
