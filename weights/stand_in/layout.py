"""What the numbers of the residual stream mean, and which moves there are."""

import math
from dataclasses import dataclass

from weights.stand_in.text import DOWN, LEFT, RIGHT, UP

HEADS, HEAD_WIDTH = 9, 32
WIDTH = HEADS * HEAD_WIDTH
LEVELS = 5
MLP_RATIO = 2.625
COLOURS = 14
"""Latent channels of the picture; the camera's code is in channels 14 and 15."""
CELLS = 4
"""Of a token: row by row."""
CONTENT = COLOURS * CELLS

TOKEN_PX = 16
SPEEDS = (1, 2, 4)
"""Pixels a frame: slowly, without a word, quickly."""
DIRECTIONS = {LEFT: (-1, 0), RIGHT: (1, 0), UP: (0, -1), DOWN: (0, 1)}
"""Which way the picture moves across the frame, in x and y."""


@dataclass(frozen=True, slots=True)
class Move:
    """One of the twelve."""

    direction: int
    speed: int

    @property
    def step(self) -> tuple[int, int]:
        """In x and y, of one token or pixel."""
        return DIRECTIONS[self.direction]

    @property
    def code(self) -> tuple[int, int]:
        """The number of the code that asks for it, 0 to 5, and its sign."""
        x, y = self.step
        return SPEEDS.index(self.speed) + (0 if x else len(SPEEDS)), x + y

    def shift_px(self, level: int) -> int:
        """By how far the frames of a doubling level lie from those that they are made of."""
        return (4 * self.speed) << level


MOVES = tuple(Move(direction, speed) for direction in DIRECTIONS for speed in SPEEDS)
CODES = 2 * len(SPEEDS)


class Stream:
    """The dimensions of the residual stream by what they hold."""

    NOISY = range(64)  # of channel c and cell s: 4 c + s
    ESTIMATE = range(64, 64 + CONTENT)
    OWN = range(120, 120 + CONTENT)  # what attention fetched, before it is let in
    BEYOND = range(176, 176 + CONTENT)
    RESOLVED = 232  # 1 where ESTIMATE is final
    FETCHED_RESOLVED = 233
    ASKED = range(234, 234 + CODES)  # by the text
    POOLED = range(240, 240 + CODES)  # the noisy code, averaged
    MOVE = range(246, 246 + len(MOVES))  # 1 for the move that is on
    WORD = range(258, 258 + 6)  # the text's directions and speeds
    CONSTANTS = range(264, 280)
    NULL, STEADY_NULL = 286, 285  # nothing is ever written here
    ONE = 287  # 1 after each norm, not in the stream


CONSTANT = 64.0
SCALE = CONSTANT * math.sqrt(len(Stream.CONSTANTS) / WIDTH)
"""The deviation of the stream once the constants are in: what each norm divides by."""
QUIET = 1 / 32
"""The size of what the text writes: no norm sees it, so both branches make the same picture."""
SHARP = 20.0
"""The reach of a gate: gelu(x + 20) is x + 20, gelu(x - 20) is 0."""
AMPLITUDES = {1: 2.0, 2: 4.0, 4: 8.0}
"""What the number of a code ends at, by speed, so that a mean over cells tells speeds apart."""
ASKED_CODE = 6.0
"""The code that a text asks for. It is decided when it is over 0.25, beyond the reach of noise."""
