"""By how much a picture moves from frame to frame, and how alike two pictures are."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Grey = np.ndarray[Any, np.dtype[np.float64]]
"""One picture, [height, width], 0 to 255."""

GROUP = 4
"""Frames of a latent frame: the step from which a move is measured."""


def grey(frame: np.ndarray[Any, Any]) -> Grey:
    """[height, width, 3] -> [height, width]."""
    levels: Grey = np.asarray(frame, np.float64).mean(2)
    return levels


def shift(before: Grey, after: Grey) -> tuple[int, int]:
    """By how many pixels the picture moved to the right and down, by phase correlation.

    Up to a quarter of its size is told for sure: what the two have in common lies within the
    window that keeps the borders out. Frequencies count by the root of their strength, halfway
    between phase correlation and the plain one: where a frame is soft, the faint ones have only the
    grid of the latent cells, which does not move.
    """
    height, width = before.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    first, second = (np.fft.rfft2((each - each.mean()) * window) for each in (before, after))
    cross = second * first.conj()
    peaks = np.fft.irfft2(cross / np.sqrt(np.maximum(np.abs(cross), 1e-9)), s=before.shape)
    y, x = np.unravel_index(int(peaks.argmax()), peaks.shape)
    return _signed(int(x), width), _signed(int(y), height)


def _signed(shift_px: int, size: int) -> int:
    return shift_px - size if shift_px > size // 2 else shift_px


def path(frames: Sequence[Grey]) -> list[tuple[int, int]]:
    """Where the picture of frame 0 is in the frames 0, 4, 8 and so on, in pixels right and down."""
    places = [(0, 0)]
    for before, after in zip(frames[:-GROUP:GROUP], frames[GROUP::GROUP], strict=True):
        x, y = shift(before, after)
        places.append((places[-1][0] + x, places[-1][1] + y))
    return places


def psnr_db(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """How alike two pictures with levels 0 to 255 are, in decibels: 30 is hard to tell apart."""
    error = np.square(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
