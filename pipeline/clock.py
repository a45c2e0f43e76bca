"""How long each denoising step took, without holding the GPU up.

Work on a GPU is queued: the host is ahead of it. A mark is put into the queue after each step, and
before a step is reported the host waits for the mark of the step before it. So it is never more
than one step ahead, which also bounds how late a cancel is heard, and the GPU never waits for it.
"""

import time
from typing import Any, Protocol

import torch


class Mark(Protocol):
    """A moment in the device's queue."""

    def wait(self) -> None:
        """Wait until the device has passed it."""

    def seconds_since(self, earlier: "Mark") -> float:
        """From an earlier mark to this one; both have been passed."""


class HostMark:
    """On a device that works as it is told to, the moment is now."""

    def __init__(self) -> None:
        self.at = time.perf_counter()

    def wait(self) -> None:
        """It has passed."""

    def seconds_since(self, earlier: Mark) -> float:
        assert isinstance(earlier, HostMark)
        return self.at - earlier.at


class CudaMark:
    """An event in the GPU's queue."""

    def __init__(self) -> None:
        self._event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's
        self._event.record()

    def wait(self) -> None:
        self._event.synchronize()

    def seconds_since(self, earlier: Mark) -> float:
        assert isinstance(earlier, CudaMark)
        milliseconds: float = earlier._event.elapsed_time(self._event)
        return milliseconds / 1000


class StepClock:
    """The seconds of one step after the other, begun when it is made.

    Args:
        mark: makes a mark at the end of the device's queue.
        is_queued: whether the device is behind the host.
    """

    def __init__(self, mark: type[HostMark] | type[CudaMark], *, is_queued: bool) -> None:
        self._mark = mark
        self._is_queued = is_queued
        self._marks: list[Mark] = [mark()]

    @classmethod
    def on(cls, device: torch.device) -> "StepClock":
        """A clock for the device's own kind of work."""
        is_queued = device.type == "cuda"
        return cls(CudaMark if is_queued else HostMark, is_queued=is_queued)

    def step(self) -> float:
        """A step has been queued: the seconds of the newest step that is certainly done.

        That is the one before, for a device that is behind; after the first step it is the first,
        so that there is a rate from the start.
        """
        self._marks = [*self._marks[-2:], self._mark()]
        if self._is_queued and len(self._marks) == 3:
            before, done = self._marks[0], self._marks[1]
        else:
            before, done = self._marks[-2], self._marks[-1]
        done.wait()
        return done.seconds_since(before)
