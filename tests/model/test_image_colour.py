import struct

import numpy as np
import numpy.typing as npt
import pytest
from image_files import (
    ADOBE,
    ORANGE,
    SRGB,
    assert_plain,
    encoded,
    gamma,
    icc_profile,
    plain,
    png_chunk,
    prepared,
    rgb_profile,
    scene,
)
from PIL import ImageCms

from pipeline.image import prepare


def srgb_of(linear: npt.NDArray[np.float64]) -> tuple[int, int, int]:
    low, high = linear * 12.92, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055
    red, green, blue = np.rint(255 * np.where(linear <= 0.0031308, low, high).clip(0, 1))
    return int(red), int(green), int(blue)


@pytest.mark.parametrize("colour", [(64, 128, 96), (200, 150, 100), (128, 128, 128)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_adobe_rgb_becomes_srgb(format: str, colour: tuple[int, int, int]) -> None:
    profile = rgb_profile(ADOBE, 563 / 256)
    lossy = {"quality": 100, "subsampling": 0} if format == "JPEG" else {"lossless": True}
    data = encoded(plain("RGB", colour), format, icc_profile=profile, **lossy)
    linear = np.linalg.solve(SRGB, ADOBE @ (np.array(colour) / 255) ** (563 / 256))

    assert_plain(data, srgb_of(linear), 2)


def test_a_profile_applies_under_transparency_too() -> None:
    swapped = rgb_profile(SRGB[:, [1, 0, 2]], 2.2)
    data = encoded(plain("RGBA", (255, 0, 0, 51)), "PNG", icc_profile=swapped)

    assert_plain(data, (204, 255, 204), 1)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_grey_profile_applies_to_grey_pictures(mode: str) -> None:
    profile = icc_profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": gamma(1.0)})
    value: dict[str, int | tuple[int, ...]] = {"L": 128, "LA": (128, 255), "I;16": 0x8080}

    # Half of the light is 188 in sRGB.
    assert_plain(encoded(plain(mode, value[mode]), "PNG", icc_profile=profile), (188,) * 3, 1)


def test_a_grey_picture_with_an_rgb_profile_is_converted_by_it() -> None:
    data = encoded(plain("L", 128), "JPEG", icc_profile=rgb_profile(SRGB, 1.0))

    assert_plain(data, (188, 188, 188), 2)


def test_a_cmyk_profile_applies_to_cmyk_pictures() -> None:
    ramp = bytes(range(256))
    # Two grid points for each ink: Lab 128 bytes of a white that ignores C, M and Y, and fades
    # with K; a = b = 0.
    corners = b"".join(
        bytes((0 if key else 255, 128, 128)) for _ in range(8) for key in (False, True)
    )
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + ramp * 4 + corners + ramp * 3
    profile = icc_profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})

    all_but_black = encoded(plain("CMYK", (255, 255, 255, 0)), "JPEG", icc_profile=profile)
    black = encoded(plain("CMYK", (0, 0, 0, 255)), "JPEG", icc_profile=profile)

    assert_plain(all_but_black, (255, 255, 255), 3)
    assert_plain(black, (0, 0, 0), 3)


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(b"not a profile", id="garbage"),
        pytest.param(rgb_profile(SRGB, 1.0)[:200], id="cut short"),
        pytest.param(icc_profile(b"mntr", b"CMYK", b"Lab ", {}), id="of another colour space"),
        pytest.param(icc_profile(b"mntr", b"RGB ", b"XYZ ", {}), id="without tables"),
    ],
)
def test_a_profile_that_fails_does_not_lose_the_picture(profile: bytes) -> None:
    assert_plain(encoded(plain("RGB", ORANGE), "PNG", icc_profile=profile), ORANGE)


def test_the_common_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = scene()

    result = prepared(encoded(image, "PNG", icc_profile=profile)).astype(int)

    assert np.abs(result - np.asarray(image)).max() <= 1


def with_chunk(colour: tuple[int, int, int], *chunks: bytes) -> bytes:
    data = encoded(plain("RGB", colour), "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def chromaticities(*points: float) -> bytes:
    return png_chunk(b"cHRM", struct.pack(">8I", *(round(point * 100_000) for point in points)))


BT709_POINTS = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE_POINTS = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)


def gamma_chunk(value: int) -> bytes:
    return png_chunk(b"gAMA", struct.pack(">I", value))


@pytest.mark.parametrize("mode", ["RGB", "L", "LA"])
def test_the_gamma_of_a_png_is_honoured(mode: str) -> None:
    value: dict[str, int | tuple[int, ...]] = {"RGB": (128,) * 3, "L": 128, "LA": (128, 255)}
    data = encoded(plain(mode, value[mode]), "PNG")

    # Half of the light is 188 in sRGB.
    assert_plain(data[:33] + gamma_chunk(100_000) + data[33:], (188,) * 3, 1)


def test_the_primaries_of_a_png_are_honoured() -> None:
    colour = (64, 128, 96)
    data = with_chunk(
        colour, gamma_chunk(round(100_000 * 256 / 563)), chromaticities(*ADOBE_POINTS)
    )
    # The curve so near to sRGB's counts as that.
    linear = np.linalg.solve(SRGB, ADOBE @ linear_of(np.array(colour) / 255))

    assert_plain(data, srgb_of(linear), 2)


def linear_of(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    light: npt.NDArray[np.float64] = np.where(
        value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4
    )
    return light


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param((gamma_chunk(45_455),), id="the gamma of most files"),
        pytest.param((gamma_chunk(45_455), chromaticities(*BT709_POINTS)), id="sRGB in numbers"),
        pytest.param((png_chunk(b"sRGB", b"\0"), gamma_chunk(100_000)), id="sRGB and a gamma"),
        pytest.param((png_chunk(b"cICP", b"\1\x0d\0\1"),), id="cICP of sRGB"),
        pytest.param((png_chunk(b"cICP", b"\2\2\0\1"),), id="cICP that says nothing"),
    ],
)
def test_a_png_that_is_srgb_keeps_its_pixels(chunks: tuple[bytes, ...]) -> None:
    assert_plain(with_chunk(ORANGE, *chunks), ORANGE)


# Display P3 to sRGB in linear light, as CSS Color 4 gives it.
P3_TO_SRGB = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])


def test_display_p3_by_number_becomes_srgb() -> None:
    colour = (100, 150, 120)
    linear = P3_TO_SRGB @ linear_of(np.array(colour) / 255)

    assert_plain(with_chunk(colour, png_chunk(b"cICP", b"\x0c\x0d\0\1")), srgb_of(linear), 2)


def test_an_avif_whose_colours_are_numbered_is_converted() -> None:
    data = encoded(plain("RGB", (128, 128, 128)), "AVIF", quality=100, subsampling="4:4:4")
    start = data.index(b"colrnclx") + 8

    # Transfer 8 is linear light.
    assert_plain(data[:start] + b"\0\1\0\x08" + data[start + 4 :], (188,) * 3, 2)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
@pytest.mark.parametrize("format", ["PNG", "AVIF"])
def test_hdr_is_taken_as_srgb_and_told(format: str, transfer: int, name: str) -> None:
    if format == "PNG":
        data = with_chunk(ORANGE, png_chunk(b"cICP", bytes((9, transfer, 0, 1))))
    else:
        avif = encoded(plain("RGB", ORANGE), "AVIF", quality=100, subsampling="4:4:4")
        start = avif.index(b"colrnclx") + 8
        data = avif[:start] + struct.pack(">HH", 9, transfer) + avif[start + 4 :]
    told: list[str] = []

    prepare(data, 96, 64, tell=told.append)

    assert_plain(data, ORANGE, 3)
    assert [f"HDR ({name})" in sentence for sentence in told] == [True]


def test_a_profile_goes_before_the_numbers_of_hdr() -> None:
    profile = rgb_profile(SRGB[:, [1, 0, 2]], 2.2)
    data = encoded(plain("RGB", (255, 0, 0)), "PNG", icc_profile=profile)
    data = data[:33] + png_chunk(b"cICP", b"\x09\x10\0\1") + data[33:]

    assert_plain(data, (0, 255, 0), 1)
