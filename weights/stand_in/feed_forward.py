"""The hidden units of a feed-forward: gates, ramps, and what clears a number."""

from collections.abc import Iterable, Mapping
from typing import Any

from weights.stand_in.layout import SCALE, SHARP, Stream


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
        flags: Mapping[int, float],
    ) -> None:
        """Add `source`, in units after the norm, to `out` if all flags are what they should be.

        `flags` names numbers that are 0 or 1: 1 for one that must be 1, -1 for one that must be 0.
        """
        needed = sum(1 for weight in flags.values() if weight > 0)
        threshold = {dim: 2 * SHARP * SCALE * weight for dim, weight in flags.items()}
        threshold[Stream.ONE] = -SHARP * (2 * needed - 1)
        unit, twin = self._take(), self._twin(threshold)
        for dimension, weight in source.items():
            self._in[unit, dimension] += weight
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
        """Subtract what is there: gelu(x) - gelu(-x) is x."""
        for dimension in dimensions:
            for sign in (1.0, -1.0):
                unit = self._take()
                self._in[unit, dimension] = sign * SCALE
                self._out[dimension, unit] = -sign

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
