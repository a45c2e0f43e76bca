"""How long a denoising step took, and how long what is left of a video will take.

One measured step predicts any other frame count, by `pipeline.work.StepCost`.
"""

import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import torch

from pipeline.work import StepCost

_NUM_MEASUREMENTS = 9
"""The newest measurements, whose median is the rate: a first step that warms up does not count."""


_newest = partial(deque[float], maxlen=_NUM_MEASUREMENTS)


class StepClock:
    """The seconds of one step after the other, begun when it is made, without holding a GPU up.

    Work on a GPU is queued: the host is ahead of it. An event is put into the queue after each
    step, and before a step is reported the host waits for the event of the step before it. So it
    is never more than one step ahead, which also bounds how late a cancel is noticed, and the GPU
    never waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_queued = device.type == "cuda"
        self._events = deque([_queued_event()] if self._is_queued else [], maxlen=3)
        self._last = time.perf_counter()

    def step(self) -> float:
        """A step has been queued: the seconds of the newest step that is certainly done.

        That is the one before, on a GPU; after the first step it is the first, so that there is a
        rate from the start.
        """
        if not self._is_queued:
            last, self._last = self._last, time.perf_counter()
            return self._last - last
        self._events.append(_queued_event())
        before, done, *_ = self._events
        done.synchronize()
        milliseconds: float = before.elapsed_time(done)
        return milliseconds / 1000


def _queued_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's
    event.record()
    return event


@dataclass(frozen=True, slots=True)
class Estimator:
    """The measured rates of one process, and what they predict."""

    step_cost: StepCost
    _seconds_per_operation: deque[float] = field(default_factory=_newest)
    _seconds_per_decoded: deque[float] = field(default_factory=_newest)

    def measured_step(self, seconds: float, num_latent_frames: int, num_branches: int) -> None:
        """Learn from one denoising step."""
        operations = num_branches * self.step_cost.operations(num_latent_frames)
        self._seconds_per_operation.append(seconds / operations)

    def measured_decode(self, seconds: float, num_latent_frames: int) -> None:
        """Learn from decoding (and encoding) one video."""
        self._seconds_per_decoded.append(seconds / num_latent_frames)

    def seconds_left(
        self, steps_left: int, num_latent_frames: int, num_branches: int, num_decodes: int = 1
    ) -> float | None:
        """The steps left and the decoding after them; None while what is left was never measured.

        `num_decodes` videos of that length are left to be decoded.

        Beside steps, decoding counts as nothing until it was measured once.
        """
        decoding = self._seconds_per_decoded
        decode_seconds = num_decodes * median(decoding) * num_latent_frames if decoding else 0.0
        if steps_left == 0:
            return decode_seconds if decoding else None
        if not self._seconds_per_operation:
            return None
        operations = steps_left * num_branches * self.step_cost.operations(num_latent_frames)
        return median(self._seconds_per_operation) * operations + decode_seconds
