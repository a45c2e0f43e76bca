"""The decoder's frames between two latent frames: the earlier one moved on by half a step.

Wan's decoder makes two frames of each where its features are of 8x8 pixels, and two of each again
where they are of 4x4. The later of two is the frame that came in. The earlier one is half way from
the frame before, which a causal convolution remembers, to that: a linear map of the frame before,
of its next places against the move, and of the later one, fitted by `fit_shifts.py`.

There is a map for each of the twelve moves, and a gate for each map, in the residual blocks:

1. The first one compares the camera's code with thresholds and writes flags: one for two opposite
   moves, 1 or -1.
2. Three others write the earlier frame at 8x8 pixels, four moves each, and the two at 4x4 six each.
   A gate opens by its move's flag, and where there is a next place: not at the border.
3. The two time convolutions lay the earlier frame before the later one.

Without a flag the earlier frame is the later one, to the bit.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from weights.stand_in.feed_forward import summable
from weights.stand_in.layout import AMPLITUDES, MOVES, Move

if TYPE_CHECKING:
    from torch import Tensor

FEATURES = 16
LATER, EARLIER = range(FEATURES), range(FEATURES, 2 * FEATURES)
LEVEL = 32
"""A constant channel, so large that each norm divides by it and not by the features."""
FLAGS = range(33, 33 + len(MOVES) // 2)
"""In the order of the numbers of the code, which are 1 or -1 as well: see `Move.code`."""
CODE = (39, 40)
"""The camera's code in x and y, averaged over cells."""

_LEVEL, _HIDDEN_LEVEL = 1000.0, 1e5
_SMALL = 1e-3
"""What the first norm makes of a 1: silu(x) is x / 2 for a small x, so the features pass unbent."""
_SHARP, _GAIN = 52.0, 0.125
"""Of a gate, as in `feed_forward.py`: silu cuts off nearly as sharply as gelu does. The decoder's
features are larger than latents, so there is less gain: sums of them up to 350 pass."""


def construct(decoder: Any, numbers: "dict[str, Tensor]") -> None:
    """Write the residual blocks and time convolutions of a decoder whose chain is in place."""
    first, second = decoder.up_blocks[0], decoder.up_blocks[1]
    _bring_in_code(decoder.conv_in)
    _raise_flags(decoder.mid_block.resnets[0])
    blocks = (decoder.mid_block.resnets[1], *first.resnets)
    for index, block in enumerate(blocks):
        _write_earlier(block, MOVES[4 * index : 4 * index + 4], "cell", numbers)
    _lay_in_time(first.upsamplers[0].time_conv)
    # The convolution that halves the channels passes on what the other blocks need.
    resample = first.upsamplers[0].resample[1]
    kept = {LEVEL: FEATURES} | {flag: FEATURES + 1 + i for i, flag in enumerate(FLAGS)}
    for channel, place in kept.items():
        resample.weight[place, channel, 1, 1] = 1
    shortcut = second.resnets[0].conv_shortcut.weight
    shortcut.zero_()
    for channel, place in kept.items():
        shortcut[channel, place] = 1
    for later, earlier in zip(LATER, EARLIER, strict=True):
        shortcut[[later, earlier], later] = 1
    places = {channel: channel for channel in LATER} | kept
    _write_earlier(second.resnets[0], MOVES[:6], "half_cell", numbers, places)
    _write_earlier(second.resnets[1], MOVES[6:], "half_cell", numbers)
    _lay_in_time(second.upsamplers[0].time_conv)


def _bring_in_code(convolution: Any) -> None:
    """The features twice, the constant, and the code: any window of cells has all its numbers."""
    weight = convolution.weight
    weight[EARLIER.start : EARLIER.stop] = weight[:FEATURES]
    convolution.bias[LEVEL] = _LEVEL
    window = weight.new_tensor([0.5, 1.0, 0.5])
    for axis, channel in enumerate(CODE):
        weight[channel, 14 + axis, 2] = window[:, None] * window


def _raise_flags(block: Any) -> None:
    """Write 1 or -1 to the flag of the move whose code it is."""
    hidden = _Hidden(block, {})
    for axis, channel in enumerate(CODE):
        for sign in (1, -1):
            moves = [move for move in MOVES if move.step[axis] == sign]
            for move in sorted(moves, key=lambda move: move.speed):
                # At the corner of the picture the window holds 9/16 of the code.
                full = AMPLITUDES[move.speed]
                before = full / 3
                low = before + 0.6 * (full * 9 / 16 - before)
                flag, value = _flag(move)
                raised = {flag: value}
                for slower in moves:
                    if slower.speed * 2 == move.speed:
                        flag, value = _flag(slower)
                        raised[flag] = -value
                hidden.ramp(channel, sign, low, 1.15 * low, raised)


def _flag(move: Move) -> tuple[int, float]:
    """The channel of its flag, and what that is if the move is on."""
    number, sign = move.code
    return FLAGS[number], float(sign)


def _write_earlier(
    block: Any,
    moves: Sequence[Move],
    kind: str,
    numbers: "dict[str, Tensor]",
    places: "dict[int, int] | None" = None,
) -> None:
    """EARLIER += the map of the move that is on.

    Args:
        places: where the block's input has each channel, if not where its output has it.
    """
    hidden = _Hidden(block, places or {})
    for move in moves:
        name = f"{kind}.{move.name}"
        hidden.gated_map(move, numbers[f"{name}.out"], numbers[f"{name}.into"])


class _Hidden:
    """The hidden channels of a residual block, given out one by one.

    The first is a constant, by which the second norm divides all others.
    """

    def __init__(self, block: Any, places: dict[int, int]) -> None:
        self._block, self._places = block, places
        width = len(block.norm1.gamma)
        block.norm1.gamma.fill_(_SMALL * _LEVEL / width**0.5)
        block.norm1.gamma[self._place(LEVEL)] = _SMALL / width**0.5
        # Behind silu a 1 is this:
        self._one = _SMALL / 2
        block.conv1.bias[0] = _HIDDEN_LEVEL * self._one
        block.norm2.gamma.fill_(_HIDDEN_LEVEL / len(block.norm2.gamma) ** 0.5)
        self._next = 1

    def gated_map(self, move: Move, out: "Tensor", into: "Tensor") -> None:
        """EARLIER += out @ into @ (frame before, its next place, this frame) if the move is on."""
        (x, y), (before, now) = move.step, (1, 2)
        twin = self._unit(move)
        for row, column in zip(into * _GAIN, summable(out).T / _GAIN, strict=True):
            unit = self._unit(move)
            own, beyond, later = row.split(FEATURES)
            weight = self._block.conv1.weight[unit]
            weight[LATER.start : LATER.stop, before, 1, 1] = own
            weight[LATER.start : LATER.stop, before, 1 - y, 1 - x] = beyond
            weight[LATER.start : LATER.stop, now, 1, 1] += later
            written = self._block.conv2.weight[EARLIER.start : EARLIER.stop, :, 2, 1, 1]
            written[:, unit] += column
            written[:, twin] -= column

    def ramp(self, channel: int, sign: int, low: float, high: float, out: dict[int, float]) -> None:
        """Add to `out` 0 below `low`, 1 above `high`, of a channel times a sign."""
        steep = 20.0
        for corner, corner_sign in ((low, 1.0), (high, -1.0)):
            unit = self._take()
            slope = steep / (high - low)
            self._block.conv1.weight[unit, channel, 2, 1, 1] = sign * slope
            self._block.conv1.bias[unit] = -corner * slope * self._one
            for target, weight in out.items():
                self._block.conv2.weight[target, unit, 2, 1, 1] += corner_sign * weight / steep

    def _unit(self, move: Move) -> int:
        """A unit whose gate is open where the move is on and there is a next place."""
        x, y = move.step
        flag, value = _flag(move)
        unit = self._take()
        weight, bias = self._block.conv1.weight[unit], self._block.conv1.bias
        weight[self._place(flag), 2, 1, 1] = value * 2 * _SHARP
        weight[self._place(LEVEL), 2, 1 - y, 1 - x] = 2 * _SHARP
        bias[unit] = -3 * _SHARP * self._one
        return unit

    def _place(self, channel: int) -> int:
        return self._places.get(channel, channel)

    def _take(self) -> int:
        self._next += 1
        return self._next - 1


def _lay_in_time(convolution: Any) -> None:
    """Of two frames the first has EARLIER for its features, the second LATER; both the rest."""
    width = convolution.weight.shape[1]
    convolution.weight.zero_()
    for frame, features in enumerate((EARLIER, LATER)):
        rows = convolution.weight[frame * width : (frame + 1) * width, :, 2, 0, 0]
        for later, source in zip(LATER, features, strict=True):
            rows[later, source] = 1
        for channel in (LEVEL, *FLAGS):
            rows[channel, channel] = 1
