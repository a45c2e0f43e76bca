"""Steps are timed without holding the GPU up, and what is left is predicted by a * T + b * T**2."""

from typing import ClassVar

import pytest
import torch

from pipeline.timing import Estimator, StepClock
from pipeline.work import StepCost

GPU = torch.device("cuda")

PUBLISHED = StepCost.from_shape(
    width=2048, mlp_ratio=4.0, layers=28, text_tokens=512, frame_tokens=44 * 80
)


class FakeEvent:
    """Stands for `torch.cuda.Event` in a queue whose steps take 1, 2, 3 … seconds."""

    num_made: ClassVar[int] = 0
    waited: ClassVar[list[int]] = []

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.number = FakeEvent.num_made
        FakeEvent.num_made += 1

    def synchronize(self) -> None:
        self.waited.append(self.number)

    def elapsed_time(self, later: "FakeEvent") -> float:
        assert later.number in self.waited, "an event was read before the device had passed it"
        return 1000.0 * sum(range(self.number + 1, later.number + 1))


@pytest.fixture
def gpu_clock(monkeypatch: pytest.MonkeyPatch) -> StepClock:
    monkeypatch.setattr(FakeEvent, "num_made", 0)
    monkeypatch.setattr(FakeEvent, "waited", [])
    monkeypatch.setattr("torch.cuda.Event", FakeEvent)
    return StepClock(GPU)


def test_a_step_on_a_gpu_is_reported_when_the_one_before_is_done(gpu_clock: StepClock) -> None:
    seconds = [gpu_clock.step() for _ in range(5)]
    # The first is waited for, so that there is a rate; then each report is of the step before.
    assert FakeEvent.waited == [1, 1, 2, 3, 4]
    assert seconds == [1.0, 1.0, 2.0, 3.0, 4.0]


def test_a_cancel_takes_two_steps_at_most(gpu_clock: StepClock) -> None:
    """It is looked for after each step is queued: one more may run then, and one is queued."""
    for queued in range(1, 10):
        gpu_clock.step()
        assert queued - max(FakeEvent.waited) <= 1


def test_no_more_than_three_events_are_kept(gpu_clock: StepClock) -> None:
    for _ in range(50):
        gpu_clock.step()
    assert len(gpu_clock._events) <= 3


def test_a_step_on_a_cpu_is_timed_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 12.0, 15.0])
    monkeypatch.setattr("pipeline.timing.time.perf_counter", lambda: next(times))
    clock = StepClock(torch.device("cpu"))
    assert [clock.step(), clock.step()] == [2.0, 3.0]


@pytest.mark.gpu
def test_a_gpu_is_timed_by_events() -> None:
    clock = StepClock(GPU)
    assert clock.step() >= 0.0
    assert len(clock._events) == 2


def test_the_cost_of_the_published_network_is_the_sum_of_its_operations() -> None:
    # 24 latent frames: self-attention 1637 and everything else 288 TFLOP (counted by FlopCounter)
    assert PUBLISHED.quadratic * 24**2 == pytest.approx(1637e12, rel=0.001)
    assert PUBLISHED.operations(24) == pytest.approx(1925e12, rel=0.001)


def test_nothing_is_predicted_before_a_step_was_measured() -> None:
    assert Estimator(PUBLISHED).seconds_left(35, 24, 2) is None


def test_a_short_clip_predicts_a_long_one() -> None:
    estimator = Estimator(PUBLISHED)
    seconds_per_operation = 1 / 600e12
    estimator.measured_step(2 * PUBLISHED.operations(3) * seconds_per_operation, 3, 2)
    expected = 10 * 2 * PUBLISHED.operations(24) * seconds_per_operation
    assert estimator.seconds_left(10, 24, 2) == pytest.approx(expected)


def test_one_slow_first_step_does_not_spoil_the_rate() -> None:
    estimator = Estimator(PUBLISHED)
    for seconds in (60.0, 5.0, 5.1, 4.9, 5.0):
        estimator.measured_step(seconds, 24, 2)
    assert estimator.seconds_left(1, 24, 2) == pytest.approx(5.0)


def test_decoding_is_added_once_it_was_measured() -> None:
    estimator = Estimator(PUBLISHED)
    estimator.measured_step(5.0, 24, 2)
    assert estimator.seconds_left(0, 24, 2) is None
    estimator.measured_decode(12.0, 24)
    assert estimator.seconds_left(2, 24, 2) == pytest.approx(10.0 + 12.0)
    assert estimator.seconds_left(0, 12, 2) == pytest.approx(6.0)
