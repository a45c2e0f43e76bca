"""Which frames are judged, and when a video that is judged may end."""

import threading

import numpy as np
import pytest

from pipeline.errors import ContentPolicyViolation
from pipeline.guardrail import JUDGED_AT_ONCE, Frame, NoGuardrail, judged, judged_frames

FRAMES = [np.full((2, 2, 3), number, dtype=np.uint8) for number in range(93)]


@pytest.mark.parametrize(
    ("num_frames", "numbers"),
    [
        (9, {0, 8}),
        (10, {0, 8, 9}),
        (16, {0, 8, 15}),
        (93, {0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 92}),
    ],
)
def test_the_first_the_last_and_every_eighth_frame_are_judged(
    num_frames: int, numbers: set[int]
) -> None:
    assert judged_frames(num_frames) == numbers


class Slow(NoGuardrail):
    """Gives no verdict until it is told to; then it refuses one frame."""

    def __init__(self, refused: int | None = None) -> None:
        self.may_answer = threading.Event()
        self.asking = threading.Semaphore(0)
        self.asked: list[int] = []
        self._refused = refused

    def check_frame(self, index: int, frame: Frame) -> None:
        self.asked.append(int(frame[0, 0, 0]))
        self.asking.release()
        assert self.may_answer.wait(30)
        if index == self._refused:
            raise ContentPolicyViolation


def test_four_frames_wait_for_their_verdicts_while_others_go_on() -> None:
    guardrail = Slow()
    passing = judged(guardrail, FRAMES, 93)
    passed = [next(passing) for _ in range(32)]
    assert len(passed) == 32
    # The fifth to be judged waits for a verdict on the first.
    waiting = threading.Thread(target=lambda: passed.append(next(passing)))
    waiting.start()
    for _ in range(JUDGED_AT_ONCE):
        assert guardrail.asking.acquire(timeout=30)
    assert sorted(guardrail.asked) == [0, 8, 16, 24]
    guardrail.may_answer.set()
    waiting.join(30)
    assert [int(frame[0, 0, 0]) for frame in [*passed, *passing]] == list(range(93))
    assert len(guardrail.asked) == 13


def test_the_video_does_not_end_before_its_last_verdict() -> None:
    guardrail = Slow(refused=8)
    passing = judged(guardrail, FRAMES[:9], 9)
    assert len([next(passing) for _ in range(9)]) == 9
    guardrail.may_answer.set()
    with pytest.raises(ContentPolicyViolation):
        next(passing)
