import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
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
    png_rows,
    prepared,
    printed_by,
    rgb_profile,
    scene,
    waves,
)
from PIL import ExifTags, Image

from pipeline import image as pictures

PLAIN_PICTURES: list[tuple[str, bytes, tuple[int, int, int], int]] = [
    ("1", encoded(plain("1", 1), "PNG"), (255, 255, 255), 0),
    ("L", encoded(plain("L", 77), "PNG"), (77, 77, 77), 0),
    ("RGB", encoded(plain("RGB", ORANGE), "PNG"), ORANGE, 0),
    ("RGB JPEG", encoded(plain("RGB", ORANGE), "JPEG", quality=95), ORANGE, 2),
    ("L JPEG", encoded(plain("L", 77), "JPEG"), (77, 77, 77), 1),
    ("CMYK JPEG", encoded(plain("CMYK", (0, 128, 255, 0)), "JPEG"), (255, 127, 0), 2),
    ("WebP", encoded(plain("RGB", ORANGE), "WEBP", lossless=True), ORANGE, 0),
    ("GIF", encoded(plain("RGB", ORANGE), "GIF"), ORANGE, 0),
    ("P", encoded(plain("RGB", ORANGE).quantize(8), "PNG"), ORANGE, 0),
    ("16-bit black", encoded(plain("I;16", 0), "PNG"), (0, 0, 0), 0),
    ("16-bit dark grey", encoded(plain("I;16", 300), "PNG"), (1, 1, 1), 0),
    ("16-bit middle grey", encoded(plain("I;16", 0x8080), "PNG"), (128, 128, 128), 0),
    ("16-bit white", encoded(plain("I;16", 65535), "PNG"), (255, 255, 255), 0),
    (
        "16-bit RGB",
        png(64, 64, 16, 2, png_rows(*[struct.pack(">HHH", 0xE600, 0x7800, 0x2800) * 64] * 64)),
        ORANGE,
        0,
    ),
    ("LA", encoded(plain("LA", (0, 51)), "PNG"), (204, 204, 204), 0),
    ("LA opaque", encoded(plain("LA", (77, 255)), "PNG"), (77, 77, 77), 0),
    ("RGBA", encoded(plain("RGBA", (255, 0, 0, 51)), "PNG"), (255, 204, 204), 0),
    ("RGBA WebP", encoded(plain("RGBA", (255, 0, 0, 0)), "WEBP", lossless=True), (255,) * 3, 0),
    ("transparent GIF", encoded(plain("RGBA", (9, 9, 9, 0)), "GIF"), (255, 255, 255), 0),
    ("L with tRNS", encoded(plain("L", 77), "PNG", transparency=77), (255, 255, 255), 0),
    ("1 with tRNS", encoded(plain("1", 0), "PNG", transparency=0), (255, 255, 255), 0),
    ("RGB with tRNS", encoded(plain("RGB", ORANGE), "PNG", transparency=ORANGE), (255,) * 3, 0),
    ("RGB, other tRNS", encoded(plain("RGB", ORANGE), "PNG", transparency=(1, 2, 3)), ORANGE, 0),
    ("16-bit with tRNS", encoded(plain("I;16", 999), "PNG", transparency=999), (255,) * 3, 0),
    ("16-bit, other tRNS", encoded(plain("I;16", 999), "PNG", transparency=998), (4, 4, 4), 0),
    (
        "JPEG with a zip after it",
        encoded(plain("L", 77), "JPEG") + b"PK\x05\x06" + bytes(18),
        (77,) * 3,
        1,
    ),
]


@pytest.mark.parametrize(
    ("data", "colour", "tolerance"),
    [pytest.param(*row[1:], id=row[0]) for row in PLAIN_PICTURES],
)
def test_every_mode_of_picture_keeps_its_colour(
    data: bytes, colour: tuple[int, int, int], tolerance: int
) -> None:
    assert_plain(data, colour, tolerance)


def test_only_transparent_palette_entries_become_white() -> None:
    result = prepared(palette_with_half_transparency())

    assert result[0, 0].tolist() == [255, 255, 255]
    assert result[0, -1].tolist() == list(ORANGE)


def test_colour_under_full_transparency_does_not_bleed_into_what_is_scaled() -> None:
    image = Image.new("RGBA", (WIDTH * 8, HEIGHT * 8), (0, 255, 0, 0))
    image.paste((*ORANGE, 255), (0, 0, WIDTH * 4 + 3, HEIGHT * 8))

    edge = prepared(encoded(image, "PNG"))[HEIGHT // 2, WIDTH // 2 - 2 : WIDTH // 2 + 2]

    # Orange mixed with white has more red than green everywhere; green would show otherwise.
    assert np.all(edge[:, 0] >= edge[:, 1])


def test_a_sixteen_bit_ramp_is_scaled_and_not_clipped() -> None:
    ramp = np.tile(np.linspace(0, 65535, WIDTH).astype(np.uint16), (HEIGHT, 1))

    result = prepared(encoded(Image.fromarray(ramp), "PNG"))

    assert np.array_equal(result[0, :, 0], np.rint(ramp[0] / 257).astype(np.uint8))


def test_a_picture_of_the_wanted_size_keeps_its_pixels() -> None:
    image = scene()

    assert pictures.prepare(encoded(image, "PNG"), WIDTH, HEIGHT).rgb == image.tobytes()


def test_an_adobe_cmyk_jpeg_reads_the_same_with_and_without_its_marker() -> None:
    data = encoded(plain("CMYK", (0, 128, 255, 0)), "JPEG")
    start = data.index(b"\xff\xee")
    (length,) = struct.unpack(">H", data[start + 2 : start + 4])

    assert_plain(data[:start] + data[start + 2 + length :], (255, 127, 0), 2)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    frames = [plain("RGB", ORANGE), plain("RGB", (0, 0, 255))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)

    assert_plain(data, ORANGE)


def test_a_jpeg_with_a_preview_behind_it_gives_its_first_picture() -> None:
    preview = plain("RGB", (0, 0, 255))
    data = encoded(plain("RGB", ORANGE), "MPO", save_all=True, append_images=[preview])

    assert_plain(data, ORANGE, 3)


@pytest.mark.parametrize("size", [(400, HEIGHT), (WIDTH, 300)])
def test_a_picture_of_another_shape_is_cropped_at_the_centre(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (255, 0, 0))
    left, top = (size[0] - WIDTH) // 2, (size[1] - HEIGHT) // 2
    image.paste((0, 255, 0), (left, top, left + WIDTH, top + HEIGHT))

    assert_plain(encoded(image, "PNG"), (0, 255, 0))
    assert prepared(encoded(image, "PNG"), *size)[0, 0].tolist() == [255, 0, 0]


def test_an_odd_remainder_is_cropped_by_half_a_pixel_on_each_side() -> None:
    columns = np.tile(np.arange(97, dtype=np.uint8) * 2, (64, 1))

    result = prepared(encoded(Image.fromarray(columns), "PNG"))

    assert result[0, :, 0].tolist() == [2 * x + 1 for x in range(96)]


def test_a_small_picture_is_enlarged_to_cover_the_frame() -> None:
    result = prepared(encoded(scene(64, 64), "PNG"), 320, 176)

    assert result.shape == (176, 320, 3)
    assert result[88, 0, 0] < 5
    assert result[88, -1, 0] > 250


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_fine_detail_is_averaged_and_not_sampled(format: str) -> None:
    y, x = np.mgrid[0 : HEIGHT * 10, 0 : WIDTH * 10]
    board = Image.fromarray(((x + y) % 2 * 255).astype(np.uint8))

    result = prepared(encoded(board, format, **({"quality": 100} if format == "JPEG" else {})))

    assert np.abs(result.astype(int) - 127).max() <= 3


@pytest.mark.parametrize("size", [(960, 640), (963, 641), (768, 900), (4000, 330)])
def test_a_jpeg_shrunk_while_it_is_decoded_lands_where_the_whole_one_would(
    size: tuple[int, int],
) -> None:
    image = waves(*size)
    whole = prepared(encoded(image, "PNG")).astype(int)
    shrunk = prepared(encoded(image, "JPEG", quality=100)).astype(int)

    assert np.abs(whole - shrunk).max() <= 4


# What the camera stores so that its orientation tag turns it back into the scene.
STORED_FOR: dict[int, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: upright.transpose(1, 0, 2)[::-1],
    7: lambda upright: upright.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda upright: upright.transpose(1, 0, 2)[:, ::-1],
}


@pytest.mark.parametrize("orientation", STORED_FOR)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_every_exif_orientation_is_turned_upright(format: str, orientation: int) -> None:
    upright = scene(WIDTH * 5, HEIGHT * 6)
    stored = Image.fromarray(np.ascontiguousarray(STORED_FOR[orientation](np.asarray(upright))))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    lossy = {"quality": 100, "subsampling": 0} if format == "JPEG" else {"lossless": True}

    turned = prepared(encoded(stored, format, exif=exif, **lossy)).astype(int)

    assert np.abs(turned - prepared(encoded(upright, "PNG"))).max() <= 3


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_out_of_range_leaves_the_picture_as_it_is(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation

    data = encoded(scene(), "PNG", exif=exif)

    assert pictures.prepare(data, WIDTH, HEIGHT).rgb == scene().tobytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0XXXXXXXX"]
)
def test_broken_exif_data_does_not_lose_the_picture(exif: bytes) -> None:
    assert_plain(encoded(plain("RGB", ORANGE), "PNG", exif=exif), ORANGE)
    assert_plain(encoded(plain("RGB", ORANGE), "JPEG", exif=exif), ORANGE, 3)


# In a fresh process: the peak resident size over the one after the imports. VmHWM and not
# ru_maxrss, which a child inherits from the process that started it.
MEASURE = """
import sys
from pathlib import Path
from pipeline.image import prepare

def resident(name):
    status = Path("/proc/self/status").read_text()
    return int(status.split(name + ":")[1].split()[0]) * 1024

before = resident("VmRSS")
prepare(Path(sys.argv[1]).read_bytes(), 1280, 704)
print(resident("VmHWM") - before)
"""


def photograph(mode: str) -> Image.Image:
    """24 megapixels, cheap to make."""
    gradient = Image.linear_gradient("L").resize((6000, 4000))
    if mode == "RGB":
        return Image.merge("RGB", [gradient, gradient.rotate(180), gradient])
    return Image.merge("RGBA", [gradient] * 4)


def jpeg_on_its_side_with_a_profile(**options: object) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    profile = rgb_profile(ADOBE, 2.2)
    return encoded(photograph("RGB"), "JPEG", exif=exif, icc_profile=profile, **options)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(
    ("make", "megabytes"),
    [
        pytest.param(
            lambda: encoded(photograph("RGB"), "JPEG"), 80, id="RGB JPEG shrunk while decoded"
        ),
        pytest.param(jpeg_on_its_side_with_a_profile, 300, id="RGB JPEG"),
        pytest.param(
            lambda: jpeg_on_its_side_with_a_profile(progressive=True, subsampling=0),
            300,
            id="progressive RGB JPEG",
        ),
        pytest.param(
            lambda: encoded(photograph("RGBA"), "PNG", compress_level=1), 450, id="RGBA PNG"
        ),
    ],
)
def test_a_picture_of_24_megapixels_costs_little_memory(
    make: Callable[[], bytes], megabytes: int, tmp_path: Path
) -> None:
    assert int(printed_by(MEASURE, make(), tmp_path)) < megabytes * 1_000_000
