"""A small picture of a video, for lists of them: its first frame as a WebP. No torch here."""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

MAX_SIDE = 320
"""Pixels of the longer side; a frame is never enlarged."""

CONTENT_TYPE = "image/webp"
NAME = "thumbnail.webp"

_QUALITY = 80


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A WebP file, and its size in pixels."""

    data: bytes
    width: int
    height: int


def thumbnail_of(frame: npt.NDArray[np.uint8]) -> Thumbnail:
    """The thumbnail of a frame [height, width, 3] of full-range sRGB."""
    picture = Image.fromarray(frame)
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=_QUALITY)
    return Thumbnail(file.getvalue(), picture.width, picture.height)
