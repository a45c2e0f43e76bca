"""Blocks 1 to 5: each frame is made of one that is there already, moved."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from weights.stand_in.feed_forward import Units
from weights.stand_in.layout import (
    CELLS,
    CONTENT,
    HEAD_WIDTH,
    MOVES,
    SCALE,
    TOKEN_PX,
    Move,
    Stream,
)
from weights.stand_in.text import WORDS

if TYPE_CHECKING:
    from torch import Tensor

_TIME_WEIGHTS = (1.0, 3.0, 3.0)
_PLACE_WEIGHTS = (1.0, 20.0)
"""Of the rotary frequencies, the fastest first. Weak fast ones and strong slow ones together make a
sharp peak, and choose the nearest token where the place is outside the picture."""


def _frequencies() -> tuple[list[float], list[float]]:
    """Radians a frame, and radians a token; as `rotary_tables` has them for these widths."""
    time = [10_000 ** -(index / 6) for index in range(6)]
    base = 10_000 * 3 ** (10 / 8)
    return time, [base ** -(index / 5) for index in range(5)]


def fetch(attention: Any, level: int) -> None:
    """OWN and BEYOND = the estimates of 2^level frames ago, where this token comes from.

    A query's phase at each frequency is the offset times the frequency: attention to one offset is
    one rotation, whatever the place.
    """
    total = sum(_TIME_WEIGHTS) + 2 * sum(_PLACE_WEIGHTS)
    sharpness = math.sqrt(20 * math.sqrt(HEAD_WIDTH) / (HEAD_WIDTH / total))
    attention.norm_q.weight.fill_(sharpness)
    attention.norm_k.weight.fill_(sharpness)
    halves = (range(CONTENT // 2), range(CONTENT // 2, CONTENT))
    for head, (target, extra, contents) in enumerate(
        (target, extra, contents)
        for target, extra in ((Stream.OWN, 0), (Stream.BEYOND, 1))
        for contents in halves
    ):
        _point(attention, head, level, extra)
        pairs = [(Stream.ESTIMATE[content], target[content]) for content in contents]
        if target is Stream.OWN and contents.start == 0:
            pairs.append((Stream.RESOLVED, Stream.FETCHED_RESOLVED))
        for index, (source, dimension) in enumerate(pairs):
            attention.to_v.weight[head * HEAD_WIDTH + index, source] = SCALE
            attention.to_out[0].weight[dimension, head * HEAD_WIDTH + index] = 1


def _point(attention: Any, head: int, level: int, extra: int) -> None:
    """Let a head attend to the token that the picture comes from, or `extra` tokens beyond."""
    first = head * HEAD_WIDTH
    query = attention.to_q.weight[first : first + HEAD_WIDTH]
    key = attention.to_k.weight[first : first + HEAD_WIDTH]
    half = HEAD_WIDTH // 2
    times, places = _frequencies()
    for index, weight in enumerate(_TIME_WEIGHTS):
        angle = -times[index] * 2**level
        query[index, Stream.ONE] = math.sqrt(weight) * math.cos(angle)
        query[index + half, Stream.ONE] = math.sqrt(weight) * math.sin(angle)
        key[index, Stream.ONE] = math.sqrt(weight)
    # Rows, then columns, each with five frequencies after the six of time.
    for axis, first_pair in ((1, 6), (0, 11)):
        for index, weight in enumerate(_PLACE_WEIGHTS):
            pair, root = first_pair + index, math.sqrt(weight)
            query[pair, Stream.ONE] = root
            key[pair, Stream.ONE] = root
            for number, move in enumerate(MOVES):
                tokens = -move.step[axis] * (move.shift_px(level) // TOKEN_PX + extra)
                angle = places[index] * tokens
                query[pair, Stream.MOVE[number]] = root * (math.cos(angle) - 1) * SCALE
                query[pair + half, Stream.MOVE[number]] = root * math.sin(angle) * SCALE


def let_in(feed_forward: Any, level: int, halves: "Mapping[str, Tensor]") -> None:
    """ESTIMATE = what was fetched, moved by what is left of the shift, where it is not final yet.

    A shift is whole tokens, or a cell (half a token), or half a cell.
    """
    units = Units(feed_forward)
    whole = [index for index, move in enumerate(MOVES) if move.shift_px(level) % TOKEN_PX]
    still = {Stream.RESOLVED: -1.0, **{Stream.MOVE[index]: -1.0 for index in whole}}
    for content in range(CONTENT):
        units.gate({Stream.OWN[content]: SCALE}, {Stream.ESTIMATE[content]: 1}, still)
    for index in whole:
        move = MOVES[index]
        flags = {Stream.RESOLVED: -1.0, Stream.MOVE[index]: 1.0}
        rest = move.shift_px(level) % TOKEN_PX
        for content in range(CONTENT):
            source = _cell_beyond(content, move) if rest == 8 else _row(halves, move, content)
            units.gate(source, {Stream.ESTIMATE[content]: 1}, flags)
    resolved = {Stream.FETCHED_RESOLVED: SCALE}
    units.gate(resolved, {Stream.RESOLVED: 1}, {Stream.RESOLVED: -1.0})
    units.clear((*Stream.OWN, *Stream.BEYOND, Stream.FETCHED_RESOLVED))


def _cell_beyond(content: int, move: Move) -> dict[int, float]:
    """Where a cell's number is fetched from if the picture moves by one cell."""
    channel, cell = divmod(content, CELLS)
    row, column = divmod(cell, 2)
    x, y = move.step
    row, column = row - y, column - x
    source = Stream.OWN if row in (0, 1) and column in (0, 1) else Stream.BEYOND
    return {source[channel * CELLS + row % 2 * 2 + column % 2]: SCALE}


def _row(halves: "Mapping[str, Tensor]", move: Move, content: int) -> dict[int, float]:
    row = halves[WORDS[move.direction][0]][content]
    return {
        dimension: float(weight) * SCALE
        for dimension, weight in zip((*Stream.OWN, *Stream.BEYOND), row, strict=True)
        if weight
    }
