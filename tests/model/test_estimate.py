"""What is left is foretold from the measured steps, by a * T + b * T**2."""

import pytest

from pipeline.estimate import Estimator, StepCost

PUBLISHED = StepCost.of(width=2048, mlp_ratio=4.0, layers=28, text_tokens=512, frame_tokens=44 * 80)


def test_the_cost_of_the_published_network_is_what_its_operations_add_up_to() -> None:
    # 24 latent frames: self-attention 1637 and everything else 288 TFLOP (counted by FlopCounter)
    assert PUBLISHED.quadratic * 24**2 == pytest.approx(1637e12, rel=0.001)
    assert PUBLISHED.operations(24) == pytest.approx(1925e12, rel=0.001)


def test_nothing_is_foretold_before_a_step_was_measured() -> None:
    assert Estimator(PUBLISHED).seconds_left(35, 24, 2) is None


def test_a_short_clip_foretells_a_long_one() -> None:
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
