"""The thumbnail of a video: a small WebP that shows its first frame."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.thumbnail import thumbnail_of


@pytest.mark.parametrize(
    ("size", "shown"), [((1280, 704), (320, 176)), ((96, 64), (96, 64)), ((704, 1280), (176, 320))]
)
def test_it_shows_the_frame_no_larger_than_it_is(
    size: tuple[int, int], shown: tuple[int, int]
) -> None:
    width, height = size
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:, width // 2 :] = (200, 30, 90)

    thumbnail = thumbnail_of(frame)

    assert (thumbnail.width, thumbnail.height) == shown
    with Image.open(io.BytesIO(thumbnail.data)) as picture:
        assert (picture.format, picture.size) == ("WEBP", shown)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(pixels[:, -20:] - (200, 30, 90)).max() <= 12
    assert pixels[:, :20].max() <= 12
