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
    prepared,
    rgb_profile,
    scene,
)
from PIL import ImageCms


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
