"""What a running pipeline tells its caller, and how the caller stops it.

No torch here: the same values travel from the worker to the server.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from pipeline.errors import Cancelled


class Stage(StrEnum):
    """The stages of one video, in the order they run. Encoding overlaps decoding."""

    TEXT = "text"
    IMAGE = "image"
    DENOISE = "denoise"
    DECODE = "decode"
    ENCODE = "encode"


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage begins; `seconds_left` is the estimate for the whole video, None if unknown."""

    stage: Stage
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class StepDone:
    """Denoising step `step` of `num_steps` is done (1-based)."""

    step: int
    num_steps: int
    seconds_per_step: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the job's log that the person who asked for the video should read."""

    message: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """The video is made again from its first stage; the message, for the job's log, says why.

    It happens once in a run at most.
    """

    message: str


Progress = StageStarted | StepDone | Note | Restarted


@dataclass(frozen=True, slots=True)
class Watcher:
    """The caller of one generation: hears its progress, and may ask it to stop.

    `show` is given the previews, WebP files, in another thread; None is for a caller who wants
    none.
    """

    tell: Callable[[Progress], None]
    cancelled: Callable[[], bool]
    show: Callable[[bytes], None] | None = None

    def check(self) -> None:
        """Raise `Cancelled` if the caller asked to stop. Called between units of work."""
        if self.cancelled():
            raise Cancelled("The video was cancelled.")
