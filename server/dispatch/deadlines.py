"""How long a worker may be silent, by what it is doing and by how fast it has been.

A hung kernel ignores a cancel, so a worker that takes too long is killed. The limits follow each
worker's own steps: a slow card is not a hung one.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.progress import Restarted, Stage, StageStarted, StepDone
from server.tasks import LOOK_AGAIN_S
from server.workers.messages import FrameToJudge, RunEvent

STOPPED_S = 3 * LOOK_AGAIN_S
"""A longer pause between two looks at the time means that this process was stopped meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """Seconds that the parts of a run may take.

    The first step includes all that comes before it: text, picture, and the kernels and plans that
    a first video makes.
    Later steps may take `slowest_times` the slowest one seen, and no less than `step_s`; or than
    `unsure_step_s`, until `sure_after` of them have been seen. Everything may take `patience` times
    as long as the other limits say.
    """

    first_step_s: float = 30 * 60.0
    slowest_times: float = 10.0
    step_s: float = 60.0
    unsure_step_s: float = 5 * 60.0
    sure_after: int = 10
    decode_s: float = 180.0
    encode_s: float = 180.0
    patience: float = 1.0


@dataclass(slots=True)
class _Pace:
    """The steps of one frame count that a worker has done."""

    steps: int = 0
    slowest_s: float = 0.0


class RunningTime:
    """Seconds, without those in which this process was stopped, and its workers with it.

    As `docker pause` and `kill -STOP` do it. It has to be asked every second while they count.
    """

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._asked_at = steady()
        self._stopped_s = 0.0

    def __call__(self) -> float:
        now = self._steady()
        if now - self._asked_at > STOPPED_S:
            self._stopped_s += now - self._asked_at
        self._asked_at = now
        return now - self._stopped_s


class Deadlines:
    """The deadlines of every slot, which learn from the runs."""

    def __init__(
        self, limits: RunLimits | None = None, *, now: Callable[[], float] | None = None
    ) -> None:
        self._limits = limits or RunLimits()
        self._now = now or RunningTime()
        self._paces: dict[str, dict[int, _Pace]] = {}

    def forget(self, slot: str) -> None:
        """The slot has lost its worker; the next one starts from nothing."""
        self._paces.pop(slot, None)

    def begin(self, slot: str, num_frames: int) -> "RunDeadline":
        """The deadline of a run that starts on the slot now."""
        pace = self._paces.setdefault(slot, {}).setdefault(num_frames, _Pace())
        return RunDeadline(self._limits, pace, self._now)


class RunDeadline:
    """When the worker of one run counts as hung; it moves with the run's events."""

    def __init__(self, limits: RunLimits, pace: _Pace, now: Callable[[], float]) -> None:
        self._limits = limits
        self._pace = pace
        self._now = now
        self._moved = asyncio.Event()
        self._step = 0
        self._stage: Stage | None = None
        self._decoded_step = -1
        self._has_restarted = False
        self._judged: set[int] = set()
        self._begin()

    def hear(self, event: RunEvent) -> None:
        """Take note of an event of the run. Only what has not been heard before counts.

        A run that is started again has its time again, once. A long video is denoised and decoded
        several times, each time by further steps.
        """
        match event:
            case Restarted() if not self._has_restarted:
                self._has_restarted = True
                self._begin()
            case StepDone(step) if step > self._step:
                self._count_step(step)
                self._enter(f"Step {step + 1}", self._step_limit_s())
            case StageStarted(Stage.DECODE) if (
                self._stage is None and self._step > self._decoded_step
            ):
                self._stage, self._decoded_step = Stage.DECODE, self._step
                self._enter("Decoding", self._limits.decode_s)
            case StageStarted(Stage.DENOISE) if self._stage is Stage.DECODE:
                self._stage = None
                self._enter(f"Step {self._step + 1}", self._step_limit_s())
            case FrameToJudge(index=index) if index not in self._judged:
                # It may have waited for the verdicts on other frames.
                self._judged.add(index)
                self._enter("Decoding, and having frames judged,", self._limits.decode_s)
            case StageStarted(Stage.ENCODE) if self._stage is not Stage.ENCODE:
                self._stage = Stage.ENCODE
                self._enter("Encoding", self._limits.encode_s)

    async def missed(self) -> str:
        """Wait until the worker has taken too long, and say at what."""
        while (left_s := self._since + self._limit_s - self._now()) > 0:
            self._moved.clear()
            with contextlib.suppress(TimeoutError):
                # No longer than `RunningTime` wants to be asked.
                async with asyncio.timeout(min(left_s, LOOK_AGAIN_S)):
                    await self._moved.wait()
        return (
            f"{self._phase} took longer than {self._limit_s:,.0f} seconds, "
            "so the worker was taken to hang and was stopped."
        )

    def _begin(self) -> None:
        self._step, self._decoded_step, self._stage = 0, -1, None
        self._judged.clear()
        self._enter("The first step, with all that comes before it,", self._limits.first_step_s)

    def _enter(self, phase: str, limit_s: float) -> None:
        self._phase, self._since = phase, self._now()
        self._limit_s = limit_s * self._limits.patience
        self._moved.set()

    def _count_step(self, step: int) -> None:
        if self._step > 0:  # what came before the first step would count with it
            self._pace.steps += 1
            self._pace.slowest_s = max(self._pace.slowest_s, self._now() - self._since)
        self._step = step

    def _step_limit_s(self) -> float:
        limits, pace = self._limits, self._pace
        least = limits.step_s if pace.steps >= limits.sure_after else limits.unsure_step_s
        return max(least, limits.slowest_times * pace.slowest_s)
