"""The work of a video is counted by what its stages do."""

from typing import Any

import pytest

from pipeline.progress import Stage
from pipeline.spec import VideoSpec
from pipeline.work import StepCost, published_step_cost, work_of

COST = StepCost(linear=1.0, quadratic=1.0)


def work(**fields: Any) -> dict[Stage, float]:
    plain: dict[str, Any] = {"prompt": "", "seed": 0, "num_frames": 9}
    spec = VideoSpec(**(plain | fields))
    return dict(work_of(spec, 93, COST))


def test_steps_and_guidance_are_evaluations_of_the_network() -> None:
    one = work(num_inference_steps=1, guidance_scale=1.0)
    assert one[Stage.DENOISE] == 3 + 3**2
    assert work(num_inference_steps=7, guidance_scale=3.0)[Stage.DENOISE] == 14 * one[Stage.DENOISE]
    assert one[Stage.DECODE] == 3


def test_a_long_video_is_the_work_of_its_chunks() -> None:
    one, three = work(num_frames=93), work(num_frames=277, overlap=1)
    assert three[Stage.DENOISE] == 3 * one[Stage.DENOISE]
    assert three[Stage.DECODE] == 3 * one[Stage.DECODE]
    assert three[Stage.IMAGE] == 3 * one[Stage.IMAGE]
    assert three[Stage.ENCODE] == 277
    assert three[Stage.TEXT] == one[Stage.TEXT]


def test_of_the_last_chunk_all_steps_are_made_and_what_is_shown_is_decoded() -> None:
    one, two = work(num_frames=93), work(num_frames=94, overlap=5)
    assert two[Stage.DENOISE] == 2 * one[Stage.DENOISE]
    # 6 frames of the last one: 5 that repeat, and 1 that is new.
    assert two[Stage.DECODE] == one[Stage.DECODE] + 3


def test_the_published_network_is_counted_at_the_frame_size() -> None:
    """Attention grows with the square of a frame's tokens."""
    full, half = published_step_cost(1280, 704), published_step_cost(640, 704)
    assert full.quadratic == pytest.approx(4 * half.quadratic)
    assert full.linear == pytest.approx(2 * half.linear)
