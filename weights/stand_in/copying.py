"""Blocks 2 to 7: each frame is made of one that is there already, moved."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weights.stand_in.feed_forward import Units, summable
from weights.stand_in.layout import (
    CONTENT,
    HALVES,
    HEAD_WIDTH,
    MOVES,
    SCALE,
    TOKEN_PX,
    Move,
    Stream,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the rotary frequencies of a head, the fastest first.

    Weak fast ones and strong slow ones together make a sharp peak, and choose the nearest token
    where the place is outside the picture.
    """

    times: tuple[float, ...] = (1.0, 3.0, 3.0)
    places: tuple[float, ...] = (1.0, 20.0)

    @property
    def total(self) -> float:
        return sum(self.times) + 2 * sum(self.places)


_SHARP = Weights()


def _frequencies() -> tuple[list[float], list[float]]:
    """Radians a frame, and radians a token; as `rotary_tables` has them for these widths."""
    time = [10_000 ** -(index / 6) for index in range(6)]
    base = 10_000 * 3 ** (10 / 8)
    return time, [base ** -(index / 5) for index in range(5)]


@dataclass(frozen=True, slots=True)
class Aim:
    """The token that a head looks at, counted from where it looks from."""

    frames: int
    columns: int = 0
    rows: int = 0


def fetch(attention: Any, back: int, shifts: "Mapping[Move, int]", idle: Aim) -> None:
    """FETCHED = the estimate of `back` frames ago, moved by whole tokens or by half of one.

    Two heads copy the halves of a token to where they are. If the shift is a token and a half, they
    look at `idle`, where there is no estimate, and two of four others copy a half of one token and
    the opposite half of the next one. For a quarter one half of the next token is fetched, no more.

    Args:
        shifts: by move, in pixels.
    """
    sharpness = math.sqrt(20 * HEAD_WIDTH**0.5 / (HEAD_WIDTH / _SHARP.total))
    attention.norm_q.weight.fill_(sharpness)
    attention.norm_k.weight.fill_(sharpness)
    for head, numbers in enumerate((range(CONTENT // 2), range(CONTENT // 2, CONTENT))):
        aims = {}
        for move, shift in shifts.items():
            tokens, rest = divmod(shift, TOKEN_PX)
            aims[move] = _back(move, back, tokens) if rest == 0 else idle
        point(attention, head, idle if back == 0 else Aim(-back), aims)
        _copy(attention, head, [(Stream.ESTIMATE[i], Stream.FETCHED[i]) for i in numbers])
    for head, half in enumerate(HALVES, start=2):
        aims = {}
        for move, shift in shifts.items():
            tokens, rest = divmod(shift, TOKEN_PX)
            is_next = move.step[half.axis] == -half.sign
            if move.step[half.axis] and (rest == 8 or (rest == 4 and is_next)):
                aims[move] = _back(move, back, tokens + is_next)
        point(attention, head, idle, aims)
        pairs = [(Stream.ESTIMATE[a], Stream.FETCHED[b]) for a, b in half.numbers]
        _copy(attention, head, pairs)
    point(attention, 6, Aim(-back), {})
    _copy(attention, 6, [(Stream.RESOLVED, Stream.FETCHED_RESOLVED)])


def _back(move: Move, frames: int, tokens: int) -> Aim:
    """Against the move: where the picture comes from."""
    x, y = move.step
    return Aim(-frames, -x * tokens, -y * tokens)


def _copy(attention: Any, head: int, pairs: list[tuple[int, int]]) -> None:
    for index, (source, target) in enumerate(pairs):
        attention.to_v.weight[head * HEAD_WIDTH + index, source] = SCALE
        attention.to_out[0].weight[target, head * HEAD_WIDTH + index] = 1


def point(
    attention: Any, head: int, otherwise: Aim, aims: Mapping[Move, Aim], weights: Weights = _SHARP
) -> None:
    """Let a head look at one token: which one, the move that is on says.

    The keys are all the same. A query's phase at each rotary frequency is the distance times the
    frequency, so the one key that is turned as far as it is at that distance, whatever the place.
    """
    first, half = head * HEAD_WIDTH, HEAD_WIDTH // 2
    query = attention.to_q.weight[first : first + HEAD_WIDTH]
    key = attention.to_k.weight[first : first + HEAD_WIDTH]
    base = _phases(otherwise, weights)
    for pair, (root, angle) in base.items():
        key[pair, Stream.ONE] = root
        query[pair, Stream.ONE] = root * math.cos(angle)
        query[pair + half, Stream.ONE] = root * math.sin(angle)
    for move, aim in aims.items():
        flag = Stream.MOVE[MOVES.index(move)]
        for pair, (root, angle) in _phases(aim, weights).items():
            # The flag turns the query from the one aim to the other.
            before = base[pair][1]
            query[pair, flag] = root * (math.cos(angle) - math.cos(before)) * SCALE
            query[pair + half, flag] = root * (math.sin(angle) - math.sin(before)) * SCALE


def _phases(aim: Aim, weights: Weights) -> dict[int, tuple[float, float]]:
    """By pair of dimensions, the size and the angle: 6 of time, 5 of rows, 5 of columns."""
    times, places = _frequencies()
    phases = {}
    for first, of_axis, frequencies, distance in (
        (0, weights.times, times, aim.frames),
        (6, weights.places, places, aim.rows),
        (11, weights.places, places, aim.columns),
    ):
        for index, weight in enumerate(of_axis):
            phases[first + index] = (math.sqrt(weight), frequencies[index] * distance)
    return phases


def let_in(units: Units) -> None:
    """ESTIMATE = what was fetched, where it is not made yet."""
    for number in range(CONTENT):
        units.gate(
            {Stream.FETCHED[number]: 1}, {Stream.ESTIMATE[number]: 1}, none_of=(Stream.RESOLVED,)
        )
    units.gate({Stream.FETCHED_RESOLVED: 1}, {Stream.RESOLVED: 1}, none_of=(Stream.RESOLVED,))
    units.clear((*Stream.FETCHED, Stream.FETCHED_RESOLVED))


def move_by_a_quarter(units: Units, quarters: "Mapping[int, tuple[Tensor, Tensor]]") -> None:
    """Move what is made, and was not given, by a quarter of a token, if a slow move is on.

    Args:
        quarters: by direction, the matrices [CONTENT, k] and [k, CONTENT + CONTENT / 2] whose
            product is what to add to a token, from itself and from the half of the next one.
    """
    for index, move in enumerate(MOVES):
        if move.speed != 1:
            continue
        out, into = quarters[move.direction]
        sources = [*Stream.ESTIMATE, *(Stream.FETCHED[i] for i in next_half(move.direction))]
        for row, column in zip(into, summable(out).T, strict=True):
            units.gate(
                dict(zip(sources, row.tolist(), strict=True)),
                dict(zip(Stream.ESTIMATE, column.tolist(), strict=True)),
                one_of=(Stream.MOVE[index],),
                none_of=(Stream.GIVEN,),
            )


def next_half(direction: int) -> list[int]:
    """Where in FETCHED the half of the next token is for a shift by a quarter, in order."""
    x, y = Move(direction, 1).step
    half = next(h for h in HALVES if (x, y)[h.axis] == -h.sign)
    return sorted(target for _, target in half.numbers)
