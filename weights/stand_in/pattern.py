"""Blocks 0 and 1: where no frame is given, the first one is a soft pattern, made of its own noise.

What of the noise is colour is averaged over neighbouring tokens: that is the pattern, so the seed
decides it. A network has no notion of which frame is the first one. But attention to a frame that
is far back ends at the first: a token that finds there what it has itself is of the first frame.

A pattern that is the average of noise is faint, so at full noise it is made GAIN times stronger. As
the noise goes, the latents hold more of the pattern itself, and it is made stronger by less: by
GAIN / (GAIN - (GAIN - 1) t) at the time t. So the estimate is the same at every step.
"""

import math
from typing import TYPE_CHECKING, Any

from weights.stand_in.copying import Aim, Weights, point
from weights.stand_in.feed_forward import Units
from weights.stand_in.layout import CONTENT, HEAD_WIDTH, SCALE, WIDTH, Stream

if TYPE_CHECKING:
    from torch import Tensor

GAIN = 2.5
COMPARED = (8, 20, 28, 48)
"""Numbers of NOISY that say much of the colour: four channels, at one cell."""

_FIRST = Aim(-50)
"""Farther back than a video is long."""
_FIRST_SHARPLY = Weights(times=(0.0, 0.0, 15.0), places=(1.0, 20.0))
_ITSELF_SHARPLY = Weights()
_FIRST_SOFTLY = Weights(times=(0.0, 0.0, 15.0), places=(0.2, 1.0, 1.0))
"""A neighbouring token counts for 0.14 of the token itself."""
_KNOTS = 16


def tell_the_first_frame(attention: Any, units: Units) -> None:
    """In block 0: NOTHING_GIVEN, and how many numbers of a token are not those of the first frame.

    Head 0 is taken, and its queries and keys are not of the pairs that are turned here.
    """
    sharpness = 40 * math.sqrt(HEAD_WIDTH) * _FIRST_SHARPLY.total / HEAD_WIDTH
    turned = [*range(3), 6, 7, 11, 12]
    for norm in (attention.norm_q, attention.norm_k):
        norm.weight[[*turned, *(pair + HEAD_WIDTH // 2 for pair in turned)]] = sharpness**0.5
    point(attention, 1, _FIRST, {}, _FIRST_SHARPLY)
    point(attention, 2, Aim(0), {}, _ITSELF_SHARPLY)
    value, out = attention.to_v.weight, attention.to_out[0].weight
    found = Stream.FETCHED[: len(COMPARED)]
    for index, (number, target) in enumerate(zip(COMPARED, found, strict=True)):
        for head, sign in ((1, 0.5), (2, -0.5)):
            value[head * HEAD_WIDTH + index, Stream.NOISY[number]] = 1
            out[target, head * HEAD_WIDTH + index] = sign
        for sign in (1.0, -1.0):
            units.ramp({target: sign}, 0.005, 0.01, {Stream.DIFFERS: 1.0})
    # The mean over the video of what is given: by head 0, which looks at all tokens alike.
    last = HEAD_WIDTH - 1
    value[last, Stream.GIVEN] = 4
    out[Stream.NOTHING_GIVEN, last] = 1
    units.clear((*found, Stream.NOTHING_GIVEN))
    given = {Stream.NOTHING_GIVEN: 10.0}
    units.gate({Stream.ONE: 1 / SCALE}, {Stream.NOTHING_GIVEN: 1}, none_of=given)


def read_colours(units: Units, colours: "Tensor") -> None:
    """In block 0: what of the noise is colour, if nothing is given.

    Args:
        colours: orthonormal columns, [CONTENT, 3]: what differs between tokens of one colour each.
    """
    for target, column in zip(_COLOURS, colours.T, strict=True):
        source = dict(zip(Stream.NOISY[:CONTENT], column.tolist(), strict=True))
        units.gate(source, {target: 1}, none_of={Stream.NOTHING_GIVEN: 10.0})


def paint(attention: Any, units: Units, colours: "Tensor") -> None:
    """In block 1: the pattern, where nothing is given, as the estimate of the first frame."""
    sharpness = 20 * math.sqrt(HEAD_WIDTH) * _FIRST_SOFTLY.total / HEAD_WIDTH
    for norm in (attention.norm_q, attention.norm_k):
        norm.weight.fill_(sharpness**0.5)
    point(attention, 0, _FIRST, {}, _FIRST_SOFTLY)
    for index, (source, target) in enumerate(zip(_COLOURS, Stream.PATTERN, strict=True)):
        attention.to_v.weight[index, source] = SCALE
        attention.to_out[0].weight[target, index] = 1
    conditions: Any = {"one_of": (Stream.NOTHING_GIVEN,), "none_of": (Stream.DIFFERS,)}
    for number, row in enumerate(colours):
        pattern = dict(zip(Stream.PATTERN, row.tolist(), strict=True))
        units.gate(pattern, {Stream.ESTIMATE[number]: 1}, **conditions)
    made = {Stream.RESOLVED: 1.0, Stream.GIVEN: 1.0}
    units.gate({Stream.ONE: 1 / SCALE}, made, **conditions)
    units.clear(_COLOURS)


_COLOURS = Stream.FETCHED[len(COMPARED) : len(COMPARED) + 3]


def strengthen(time_embedding: Any) -> None:
    """Let the modulation of every norm multiply PATTERN by the gain, which falls with the noise.

    The gain is a sum of ramps of the time, by least squares.
    """
    import torch
    from torch.nn import functional

    half, slope = WIDTH // 2, 30.0
    hidden = time_embedding.t_embedder.linear_1.weight
    knots = 1 - torch.linspace(0, 1, _KNOTS) ** 2
    for unit, knot in enumerate(knots.tolist(), start=1):
        # The sine of the time, and cosines that are 1 at any time.
        hidden[unit, half] = slope
        hidden[unit, half - 20 : half] = -slope * math.sin(knot) / 20
    times = torch.linspace(0, 1, 2000).double()
    rows = hidden[: _KNOTS + 1].half().double()
    active = rows[:, half] * times.sin()[:, None] + rows[:, half - 20 : half].sum(1)
    features = functional.silu(active)
    gain = GAIN / (GAIN - (GAIN - 1) * times)
    weighted = torch.cat([features / gain[:, None], 1e-3 * torch.eye(_KNOTS + 1).double()])
    target = torch.cat([(gain - 1) / gain, torch.zeros(_KNOTS + 1).double()])
    solution = torch.linalg.lstsq(weighted, target[:, None]).solution[:, 0]
    scale = time_embedding.t_embedder.linear_2.weight[WIDTH : 2 * WIDTH]
    for dimension in (*Stream.PATTERN, Stream.PATTERN_NULL):
        scale[dimension, : _KNOTS + 1] = solution.float()
