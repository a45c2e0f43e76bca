import struct
import sys
import warnings
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import (
    ADOBE,
    HEIGHT,
    ORANGE,
    WIDTH,
    assert_plain,
    encoded,
    palette_with_half_transparency,
    plain,
    png,
    png_chunk,
    png_rows,
    printed_by,
    rgb_profile,
    scene,
)
from PIL import ExifTags, Image, ImageDraw

from pipeline import image as pictures
from pipeline.errors import (
    FileTooLarge,
    ImageTooLarge,
    ImageUnreadable,
    InputError,
)


def cut_in_half(format: str) -> bytes:
    data = encoded(scene(200, 200), format)
    return data[: len(data) // 2]


def gif_without_frames() -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", 100, 100, 0, 0, 0) + b";"


UNREADABLE: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("text", b"<html>404 not found</html>"),
    ("zeros", bytes(4096)),
    ("a JPEG's first two bytes", b"\xff\xd8"),
    ("half a JPEG", cut_in_half("JPEG")),
    ("half a PNG", cut_in_half("PNG")),
    ("half a WebP", cut_in_half("WEBP")),
    ("half a GIF", cut_in_half("GIF")),
    ("a GIF without frames", gif_without_frames()),
    ("a PNG without pixels", png(100, 100, 8, 2)),
    ("a PNG of too few rows", png(100, 100, 8, 0, png_rows(*[bytes(100)] * 99))),
    ("a PNG of no known colours", png(100, 100, 8, 5, png_rows(*[bytes(100)] * 100))),
    ("a PNG whose pixels end early", png(100, 100, 8, 0, png_chunk(b"IDAT", b"\x78\x9c\x63"))),
    ("a PNG of the wrong checksum", encoded(scene(), "PNG").replace(b"IHDR", b"IHDr", 1)),
    ("a PNG of garbled pixels", png(100, 100, 8, 0, png_chunk(b"IDAT", b"\x78\x9c" + bytes(50)))),
    ("a BMP", encoded(scene(), "BMP")),
    ("a TIFF", encoded(scene(), "TIFF")),
    ("half an AVIF", cut_in_half("AVIF")),
    ("an SVG", b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"/>'),
    ("a PDF", b"%PDF-1.7\n"),
]


def test_rows_that_a_png_holds_and_does_not_promise_are_ignored() -> None:
    assert_plain(png(WIDTH, HEIGHT, 8, 0, png_rows(*[b"\xff" * WIDTH] * 5000)), (255, 255, 255))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("data", [pytest.param(row[1], id=row[0]) for row in UNREADABLE])
def test_what_is_no_whole_picture_is_an_image_load_error(data: bytes) -> None:
    with pytest.raises(ImageUnreadable) as caught:
        pictures.prepare(data, WIDTH, HEIGHT, field="start_image")

    assert caught.value.code == "image_load_error"
    assert caught.value.field == "start_image"


def test_the_message_for_an_unreadable_picture_names_the_formats_accepted() -> None:
    with pytest.raises(ImageUnreadable, match="JPEG, PNG, WebP, GIF or AVIF"):
        pictures.prepare(b"no picture", WIDTH, HEIGHT)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (63, 64)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_one_pixel_is_enough(format: str, size: tuple[int, int]) -> None:
    assert_plain(encoded(Image.new("RGB", size, (200, 200, 200)), format), (200, 200, 200), 2)


@pytest.mark.parametrize("size", [(10_000, 5_001), (11_000, 9_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.parametrize("on_warning", ["ignore", "error"])
def test_a_header_of_too_many_pixels_is_refused_before_decoding(
    size: tuple[int, int], on_warning: Literal["ignore", "error"]
) -> None:
    bomb = png(*size, 8, 0, png_rows(bytes(100)))

    with (
        warnings.catch_warnings(action=on_warning),
        pytest.raises(ImageTooLarge) as caught,
    ):
        pictures.prepare(bomb, WIDTH, HEIGHT)

    assert caught.value.code == "image_too_large"
    assert caught.value.context == {"max_height": 7071, "max_width": 7071}


def test_fifty_megapixels_are_not_too_many() -> None:
    assert_plain(png(10_000, 5_000, 1, 0, png_rows(*[bytes(1250)] * 5000)), (0, 0, 0))


def test_a_gif_frame_larger_than_its_screen_counts_with_its_own_size() -> None:
    data = bytearray(encoded(plain("L", 0), "GIF"))
    frame = data.index(b"\x2c")
    data[frame + 5 : frame + 9] = struct.pack("<HH", 60_000, 60_000)

    with pytest.raises(ImageTooLarge):
        pictures.prepare(bytes(data), WIDTH, HEIGHT)


def test_twenty_mebibytes_are_accepted_and_one_byte_more_is_not() -> None:
    picture = encoded(plain("L", 77), "JPEG")
    largest = picture.ljust(pictures.MAX_BYTES, b"\0")

    assert_plain(largest, (77, 77, 77), 1)
    with pytest.raises(FileTooLarge) as caught:
        pictures.prepare(largest + b"\0", WIDTH, HEIGHT)
    assert caught.value.code == "file_too_large"
    assert caught.value.context == {"max_size": 20 * 1024 * 1024}


# The limit leaves room for the process, but not for the 192 MB of 48 megapixels.
DECODE_IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from pipeline.errors import ImageUnreadable
from pipeline.image import prepare

data = Path(sys.argv[1]).read_bytes()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 64_000_000, used + 64_000_000))
try:
    prepare(data, 96, 64)
except ImageUnreadable as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is measured from /proc")
def test_a_picture_that_memory_does_not_suffice_for_is_refused(tmp_path: Path) -> None:
    picture = png(8_000, 6_000, 8, 2, png_rows(*[bytes(24_000)] * 6_000))

    assert "memory" in printed_by(DECODE_IN_LITTLE_MEMORY, picture, tmp_path)


def drawing() -> Image.Image:
    image = scene(80, 72)
    ImageDraw.Draw(image).ellipse((10, 10, 60, 60), fill=ORANGE)
    return image


def seeds() -> list[bytes]:
    """Small valid files that between them reach most of what is parsed."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    extras = {"exif": exif, "icc_profile": rgb_profile(ADOBE, 2.2)}
    image = drawing()
    return [
        encoded(image, "JPEG", **extras),
        encoded(image, "JPEG", progressive=True),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(image, "MPO", save_all=True, append_images=[image]),
        encoded(image, "PNG", **extras),
        encoded(image.convert("RGBA"), "PNG", save_all=True, append_images=[scene(80, 72)]),
        encoded(Image.new("I;16", (80, 72), 999), "PNG", transparency=999),
        palette_with_half_transparency(),
        encoded(image, "WEBP", lossless=True, **extras),
        encoded(image, "WEBP", save_all=True, append_images=[scene(80, 72)]),
        encoded(image, "GIF", save_all=True, append_images=[scene(80, 72)]),
        encoded(image.convert("RGBA"), "AVIF", **extras),
    ]


SEEDS = seeds()


@st.composite
def mutated_pictures(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    # Most of what can be broken in an interesting way stands at the front.
    places = st.integers(0, len(data) - 1) | st.integers(0, min(400, len(data) - 1))
    for place, value in draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        data[place] = value
    end = draw(st.just(len(data)) | st.integers(0, len(data)))
    return bytes(data[:end])


def assert_prepared_or_refused(data: bytes) -> None:
    try:
        pixels = pictures.prepare(data, WIDTH, HEIGHT)
    except InputError as error:
        assert error.code in {"image_load_error", "image_too_large"}
    else:
        assert (pixels.width, pixels.height) == (WIDTH, HEIGHT)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None)
@given(data=mutated_pictures())
def test_a_damaged_picture_is_prepared_or_refused_and_nothing_else(data: bytes) -> None:
    assert_prepared_or_refused(data)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=100, deadline=None)
@given(
    start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF"]),
    rest=st.binary(max_size=200),
)
def test_random_bytes_are_refused_and_nothing_else(start: bytes, rest: bytes) -> None:
    assert_prepared_or_refused(start + rest)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_a_picture_cut_anywhere_is_prepared_or_refused_and_nothing_else(number: int) -> None:
    data = SEEDS[number]
    # All of its first bytes, which say what it is, and some hundred places behind them.
    ends = [*range(min(100, len(data))), *range(100, len(data), max(1, len(data) // 100))]

    for end in ends:
        assert_prepared_or_refused(data[:end])
