"""Steps are timed by marks in the device's queue, and the host is never more than one ahead."""

from typing import ClassVar

import pytest
import torch

from pipeline.clock import CudaMark, HostMark, Mark, StepClock


class QueuedMark:
    """A mark in a queue whose steps take 1, 2, 3 … seconds; it remembers which were waited for."""

    made: ClassVar[list["QueuedMark"]] = []
    waited: ClassVar[list[int]] = []

    def __init__(self) -> None:
        self.number = len(self.made)
        self.made.append(self)

    def wait(self) -> None:
        self.waited.append(self.number)

    def seconds_since(self, earlier: Mark) -> float:
        assert isinstance(earlier, QueuedMark)
        assert self.number in self.waited, "a mark was read before the device had passed it"
        return float(sum(range(earlier.number + 1, self.number + 1)))


@pytest.fixture
def queued_clock() -> StepClock:
    QueuedMark.made.clear()
    QueuedMark.waited.clear()
    return StepClock(QueuedMark, is_queued=True)  # type: ignore[arg-type]  # stands in for CudaMark


def test_a_step_on_a_gpu_is_reported_when_the_one_before_is_done(queued_clock: StepClock) -> None:
    seconds = [queued_clock.step() for _ in range(5)]
    # The first is waited for, so that there is a rate; then each report is of the step before.
    assert QueuedMark.waited == [1, 1, 2, 3, 4]
    assert seconds == [1.0, 1.0, 2.0, 3.0, 4.0]


def test_no_more_than_three_marks_are_kept(queued_clock: StepClock) -> None:
    for _ in range(50):
        queued_clock.step()
    assert len(queued_clock._marks) <= 3


def test_a_step_on_a_cpu_is_timed_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 12.0, 15.0])
    monkeypatch.setattr("pipeline.clock.time.perf_counter", lambda: next(times))
    clock = StepClock(HostMark, is_queued=False)
    assert [clock.step(), clock.step()] == [2.0, 3.0]


def test_the_device_chooses_the_mark() -> None:
    assert StepClock.on(torch.device("cpu"))._mark is HostMark


@pytest.mark.gpu
def test_a_gpu_is_timed_by_events() -> None:
    clock = StepClock.on(torch.device("cuda"))
    assert clock._mark is CudaMark
    assert clock.step() >= 0.0
