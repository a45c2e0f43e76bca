"""What the numbers of the residual stream mean, and which moves there are."""

import math
from dataclasses import dataclass

from weights.stand_in.text import DOWN, LEFT, RIGHT, UP, WORDS

HEADS, HEAD_WIDTH = 7, 32
WIDTH = HEADS * HEAD_WIDTH
LEVELS = 5
MLP_RATIO = 0.5625
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
    def name(self) -> str:
        """Such as `right.2`."""
        return f"{WORDS[self.direction][0]}.{self.speed}"

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
HOLD_CODE = 6
CODES = 7


def code_place(code: int) -> tuple[int, int]:
    """The latent channel and the cell of a token that a number of the code is in."""
    return (14, 3) if code == HOLD_CODE else (14 + code // len(SPEEDS), code % len(SPEEDS))


@dataclass(frozen=True, slots=True)
class Half:
    """A copy of one half of a token to a half of another: on one axis, to the side of `sign`."""

    axis: int
    sign: int

    @property
    def cells(self) -> list[tuple[int, int]]:
        """From which cell to which."""
        sides = ((0, 2), (1, 3)) if self.axis == 0 else ((0, 1), (2, 3))
        source, target = sides if self.sign > 0 else sides[::-1]
        return list(zip(source, target, strict=True))

    @property
    def numbers(self) -> list[tuple[int, int]]:
        """From which number of a token's content to which: of channel c and cell s, 4 c + s."""
        return [
            (channel * CELLS + source, channel * CELLS + target)
            for channel in range(COLOURS)
            for source, target in self.cells
        ]


HALVES = (Half(0, 1), Half(0, -1), Half(1, 1), Half(1, -1))


class Stream:
    """The dimensions of the residual stream by what they hold."""

    NOISY = range(64)  # of channel c and cell s: 4 c + s
    ESTIMATE = range(64, 64 + CONTENT)
    FETCHED = range(120, 120 + CONTENT)  # by attention, before it is let in
    RESOLVED = 176  # 1 where ESTIMATE is made
    FETCHED_RESOLVED = 177
    GIVEN = 178
    ASKED = range(179, 179 + CODES)  # by the text
    POOLED = range(186, 186 + CODES)  # the noisy code, averaged
    MOVE = range(193, 193 + len(MOVES))  # 1 for the move that is on
    HOLD = 205  # 1 if none may be
    WORD = range(206, 206 + 7)  # the text's directions, speeds, and whether to hold still
    CONSTANTS = range(213, 215)
    NULL, STEADY_NULL = 215, 216  # nothing is ever written here
    ONE = 217  # 1 after each norm, not in the stream
    PATTERN = range(218, 221)  # colour, averaged; each norm multiplies it by a gain
    PATTERN_NULL = 221  # multiplied by it, too, and never written
    NOTHING_GIVEN = 222  # 1 if no frame is given
    DIFFERS = 223  # how many numbers are not those of the first frame


SCALE = 32.0
"""The deviation of the stream once the constants are in: what each norm divides by. A power of two,
which half precision holds exactly."""
CONSTANT = SCALE * math.sqrt(WIDTH / len(Stream.CONSTANTS))
QUIET = 1 / 32
"""The size of what the text writes: no norm sees it, so both branches make the same picture."""
ASKED_CODE = 3.0
"""The code that a text asks for."""
DECIDED = 0.33, 0.4
"""From where to where a number of the code turns its move on. More than the mean of the noise is in
a video of 160x96 and 9 frames, and where the drift of the noise gets to later than a text does."""
AMPLITUDES = {1: 3.0, 2: 9.0, 4: 27.0}
"""What the number of a code ends at once it is decided, by speed: so the decoder, which sees sums
over cells, can tell speeds apart."""
HOLD_AMPLITUDE = 1.0
"""Less, so that the decoder takes it for no move."""
CONFIRMED_CODE = 17.0
"""What is added to the amplitude at full noise, less and less. The sampler continues the change of
an estimate, and guidance may have asked for much more than the amplitude: without this the code
would swing over to the opposite one."""
DRIFT_CODE = 1.5
"""The code that the noise asks for; weaker than a text."""
