"""The camera's move, from words and noise to the flag of a move: blocks 0, 1, 4 and 5."""

from collections.abc import Mapping
from typing import Any

from weights.stand_in import text
from weights.stand_in.feed_forward import Units
from weights.stand_in.layout import (
    ASKED_CODE,
    CODES,
    CONFIRMED_CODE,
    DECIDED,
    DIRECTIONS,
    DRIFT_CODE,
    HEAD_WIDTH,
    HOLD_CODE,
    MOVES,
    QUIET,
    SPEEDS,
    Move,
    Stream,
)

_MEANINGS = (*text.DIRECTIONS, *text.SPEEDS, text.STILL, text.FIXED)


def read_text(projection: Any, attention: Any) -> None:
    """WORD[i] = QUIET if a sentence about the camera has word i, and no other of its kind.

    A camera that is fixed moves nowhere, whatever its sentence says of left and right: the word is
    all four directions, which are none together, and far more than one wish to hold still.

    Two sorts of tokens tell: a word that comes after one of the camera, and a word of the camera
    that comes after one. The second sort counts where there is none of the first.

    A number of a token's state that is 1 comes as 0.85 or so, and one that is 0 as -0.15: the mean
    is taken out. So two that are 1 add up to 1.7, and one to 0.7.
    """
    count = len(_MEANINGS)
    for index, meaning in enumerate(_MEANINGS):
        after = (meaning, text.SAID + text.CAMERA)
        before = (text.SAID + meaning, text.CAMERA)
        projection.weight[index, after] = 10
        projection.weight[count + index, before] = 10
        projection.bias[[index, count + index]] = -12
    attention.norm_q.weight.fill_(2.5)
    attention.norm_k.weight.fill_(2.5)
    # A head for each kind of words. It sees those alone, or, where there is none, all tokens alike.
    for head, words in enumerate((range(4), range(4, 6), range(6, 7), range(7, 8))):
        first = head * HEAD_WIDTH
        attention.to_q.weight[first, Stream.ONE] = 1
        for word in words:
            attention.to_k.weight[first, [word, count + word]] = 1
            # The norm shortens a key of two numbers.
            attention.to_k.weight[first + 1, count + word] = 1
            attention.to_v.weight[first + word, [word, count + word]] = QUIET / 4
            for dimension, weight in _writes(word).items():
                attention.to_out[0].weight[dimension, first + word] = weight


def _writes(word: int) -> dict[int, float]:
    if _MEANINGS[word] == text.FIXED:
        return {**dict.fromkeys(Stream.WORD[:4], 1.0), Stream.WORD[6]: 8.0}
    return {Stream.WORD[word]: 1.0}


def _read_words(units: Units, outputs: "Mapping[Move | None, dict[int, float]]") -> None:
    """Add to the output of the move that the words ask for; None is the wish to hold still."""
    for move in MOVES:
        # Two directions in one prompt are none.
        wanted = {
            Stream.WORD[index]: 1.0 if direction == move.direction else -1.0
            for index, direction in enumerate(DIRECTIONS)
        }
        slowly, quickly = Stream.WORD[4], Stream.WORD[5]
        match move.speed:
            case 1:
                wanted |= {slowly: 1.0, quickly: -1.0}
            case 2:
                wanted |= {slowly: -1.0, quickly: -1.0}
            case 4:
                wanted |= {slowly: -1.0, quickly: 1.0}
        needed = 1 if move.speed == 2 else 2
        words = {dimension: weight / QUIET for dimension, weight in wanted.items()}
        units.ramp(words, needed - 0.7, needed - 0.3, outputs[move])
    # A direction counts before the wish to hold still.
    wanted = {Stream.WORD[6]: 1.0, **dict.fromkeys(Stream.WORD[:4], -1.0)}
    words = {dimension: weight / QUIET for dimension, weight in wanted.items()}
    units.ramp(words, 0.3, 0.7, outputs[None])


def let_words_ask(units: Units) -> None:
    """ASKED from the words."""
    outputs: dict[Move | None, dict[int, float]] = {
        None: {Stream.ASKED[HOLD_CODE]: ASKED_CODE * QUIET}
    }
    for move in MOVES:
        code, sign = move.code
        outputs[move] = {Stream.ASKED[code]: sign * ASKED_CODE * QUIET}
    _read_words(units, outputs)


def read_code(units: Units) -> None:
    """MOVE from the pooled code."""
    for index, move in enumerate(MOVES):
        code, sign = move.code
        units.ramp({Stream.POOLED[code]: sign}, *DECIDED, {Stream.MOVE[index]: 1.0})
    units.ramp({Stream.POOLED[HOLD_CODE]: 1.0}, *DECIDED, {Stream.HOLD: 1.0})


def let_words_move(units: Units) -> None:
    """MOVE and HOLD from the words: a distilled network has no guidance that would scale them."""
    outputs: dict[Move | None, dict[int, float]] = {None: {Stream.HOLD: 1.0}}
    outputs |= {move: {Stream.MOVE[index]: 1.0} for index, move in enumerate(MOVES)}
    _read_words(units, outputs)


def let_noise_move(attention: Any, reading: Units, deciding: Units) -> None:
    """MOVE = a slow drift to where the pooled noise goes, if the words move nothing.

    Of the pooled codes a, for x, and b, for y, the larger one decides: the signs of a + b and of
    a - b say which one that is, and its sign. Two ramps after one another make signs of them.
    """
    a, b = (Stream.POOLED[code] for code in (0, len(SPEEDS)))
    for code in (0, len(SPEEDS)):
        attention.to_out[0].weight[Stream.POOLED[code], code] = 16
    sum_, difference = Stream.ASKED[:2]
    reading.ramp({a: 1.0, b: 1.0}, -0.004, 0.004, {sum_: 1.0})
    reading.ramp({a: 1.0, b: -1.0}, -0.004, 0.004, {difference: 1.0})
    for move in MOVES:
        if move.speed != 1:
            continue
        x, y = move.step
        signs = {sum_: float(x + y), difference: float(x - y)}
        # Of two signs that are 0 or 1, those that are to be 1 count for it, and the others against.
        needed = sum(sign > 0 for sign in signs.values())
        low, high = needed - 0.55, needed - 0.45
        flags = dict.fromkeys(_DECIDED, -1.0)
        out = {Stream.MOVE[MOVES.index(move)]: 1.0}
        deciding.ramp({**signs, **flags}, low, high, out)


def let_one_move_be_on(units: Units) -> None:
    """MOVE[i] = 0 if HOLD is 1, or the flag of a faster move, or of one as fast and before it."""

    def rank(move: Move) -> tuple[int, int]:
        return -move.speed, MOVES.index(move)

    before = [Stream.HOLD]
    for move in sorted(MOVES, key=rank):
        own = Stream.MOVE[MOVES.index(move)]
        # The flag itself and at least one other: 13 of 12 + 1 are needed.
        units.ramp({own: 12.0, **dict.fromkeys(before, 1.0)}, 12.3, 12.7, {own: -1.0})
        before.append(own)


_DECIDED = (Stream.HOLD, *Stream.MOVE)


def confirm(clearing: Units, writing: Units) -> None:
    """ASKED = what is decided, once something is.

    On that both branches agree, so guidance has no part in what the code ends at. There are two
    blocks because neither has units left for both.
    """
    flags: list[dict[int, float]] = [{} for _ in range(CODES)]
    for index, move in enumerate(MOVES):
        code, sign = move.code
        flags[code][Stream.MOVE[index]] = sign
    flags[HOLD_CODE][Stream.HOLD] = 1.0
    for asked, decided in zip(Stream.ASKED, flags, strict=True):
        clearing.gate({asked: 1}, {asked: -1}, one_of=_DECIDED)
        writing.gate(decided, {asked: CONFIRMED_CODE * QUIET})


def let_noise_ask(units: Units) -> None:
    """ASKED = a slow drift to where the pooled noise already goes, if nothing is decided.

    Of the pooled codes a, for x, and b, for y, the larger one grows, because
    sign(a + b) + sign(a - b) is twice the sign of a where |a| > |b|, and 0 elsewhere.
    """
    slow_x, slow_y = 0, len(SPEEDS)
    for sign in (1.0, -1.0):
        for other in (1.0, -1.0):
            codes = {Stream.POOLED[slow_x]: sign, Stream.POOLED[slow_y]: sign * other}
            asked = {
                Stream.ASKED[slow_x]: sign * DRIFT_CODE * QUIET / 2,
                Stream.ASKED[slow_y]: sign * other * DRIFT_CODE * QUIET / 2,
            }
            units.ramp({**codes, **dict.fromkeys(_DECIDED, -1.0)}, 0.0, 0.08, asked)
