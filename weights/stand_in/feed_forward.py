"""The hidden units of a feed-forward: gates, ramps, and what clears a number."""

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from weights.stand_in.layout import SCALE, Stream

if TYPE_CHECKING:
    from torch import Tensor

SHARP = 64.0
"""A gate is gelu(x + 64) - gelu(64), which is x for any |x| below 58, or, closed,
gelu(x - 64) - gelu(-64), which is 0. Latents of a photograph go up to 7, and attention fetches
the sum of three to where nothing is let in. A power of two: half precision holds the sum of a
gate's weights, which is what takes out the mean of the stream, exactly."""


def summable(columns: "Tensor") -> "Tensor":
    """Round so that half precision holds each number, and the sum of each row, exactly.

    A gate takes out SHARP times that sum with its twin: an error would be seen.
    """
    largest = columns.abs().amax(1).maximum(columns.sum(1).abs())
    step = 2.0 ** (largest.log2().ceil() - 10)[:, None]
    return (columns / step).round() * step


class Units:
    """The hidden units of a feed-forward, given out one by one."""

    def __init__(self, feed_forward: Any) -> None:
        self._in, self._out = feed_forward.net[0].proj.weight, feed_forward.net[2].weight
        self._next = 0
        self._twins: dict[tuple[tuple[int, float], ...], int] = {}

    def gate(
        self,
        source: Mapping[int, float],
        out: Mapping[int, float],
        *,
        one_of: Collection[int] = (),
        none_of: Collection[int] | Mapping[int, float] = (),
    ) -> None:
        """Add `source`, a sum of numbers of the stream, to `out` if the flags are so.

        Flags are numbers that are 0 or 1. Of `one_of` one must be 1, if it names any, and of
        `none_of` none; as a mapping, it says by what to multiply a flag that can be less than 1.
        """
        factors = none_of if isinstance(none_of, Mapping) else dict.fromkeys(none_of, 1.0)
        threshold = dict.fromkeys(one_of, 2 * SHARP * SCALE)
        threshold |= {flag: -2 * SHARP * SCALE * factor for flag, factor in factors.items()}
        threshold[Stream.ONE] = -SHARP if one_of else SHARP
        unit, twin = self._take(), self._twin(threshold)
        for dimension, weight in source.items():
            self._in[unit, dimension] += weight * SCALE
        for dimension, weight in threshold.items():
            self._in[unit, dimension] += weight
        for dimension, weight in out.items():
            self._out[dimension, unit] += weight
            self._out[dimension, twin] -= weight

    def ramp(
        self,
        source: Mapping[int, float],
        low: float,
        high: float,
        out: Mapping[int, float],
    ) -> None:
        """Add to `out` 0 below `low`, 1 above `high`, of a sum of numbers of the stream."""
        steep = 6.0
        for corner, sign in ((low, 1.0), (high, -1.0)):
            unit = self._take()
            for dimension, weight in source.items():
                self._in[unit, dimension] = weight * SCALE * steep / (high - low)
            self._in[unit, Stream.ONE] = -corner * steep / (high - low)
            for dimension, weight in out.items():
                self._out[dimension, unit] += sign * weight / steep

    def clear(self, dimensions: Iterable[int]) -> None:
        """Subtract what is there."""
        for dimension in dimensions:
            self.gate({dimension: 1}, {dimension: -1})

    def _twin(self, threshold: Mapping[int, float]) -> int:
        """A unit with the same gate and nothing to let through."""
        key = tuple(sorted(threshold.items()))
        if key not in self._twins:
            self._twins[key] = unit = self._take()
            for dimension, weight in threshold.items():
                self._in[unit, dimension] = weight
        return self._twins[key]

    def _take(self) -> int:
        self._next += 1
        return self._next - 1
