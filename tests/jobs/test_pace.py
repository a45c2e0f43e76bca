"""The seconds that were measured say how long another video takes, or that it is unknown."""

from dataclasses import replace

import pytest

from pipeline.spec import Container, VideoSpec
from server.jobs.pace import Pace, Shape

SPEC = VideoSpec(prompt="", seed=0, num_frames=25, num_inference_steps=10)
SHAPE = Shape.of("text-to-video", SPEC)
SECONDS = {"text": 1.0, "denoise": 20.0, "decode": 5.0, "encode": 1.0}


@pytest.fixture
def pace() -> Pace:
    return Pace(1280, 704, 93)


def test_what_was_never_measured_is_unknown(pace: Pace) -> None:
    pace.learn(SHAPE, SECONDS)
    assert pace.stage_seconds(SHAPE) == SECONDS
    assert pace.stage_seconds(replace(SHAPE, endpoint="image-to-video")) is None
    assert pace.seconds(replace(SHAPE, endpoint="image-to-video")) is None


def test_other_steps_guidance_and_lengths_are_scaled_by_work(pace: Pace) -> None:
    pace.learn(SHAPE, SECONDS)
    twice = pace.stage_seconds(replace(SHAPE, num_inference_steps=20))
    assert twice == SECONDS | {"denoise": 40.0}
    unguided = pace.stage_seconds(replace(SHAPE, guidance_scale=1.0))
    assert unguided is not None and unguided["denoise"] == 10.0
    longer = pace.stage_seconds(replace(SHAPE, num_frames=93))
    # 24 latent frames for 7: attention costs more than in proportion.
    assert longer is not None and longer["denoise"] > 20.0 * 24 / 7
    assert longer["decode"] == pytest.approx(5.0 * 24 / 7)


def test_the_median_of_the_newest_counts(pace: Pace) -> None:
    for denoise in (900.0, *[20.0] * 5, 500.0, *[30.0] * 5):
        pace.learn(SHAPE, {"denoise": denoise})
    assert pace.stage_seconds(SHAPE) == {"denoise": 30.0}


def test_those_count_that_are_most_like_it(pace: Pace) -> None:
    """How long a codec takes is not counted, so those of the same one say more."""
    gif = replace(SHAPE, container=Container.GIF.value)
    pace.learn(gif, SECONDS | {"encode": 9.0})
    pace.learn(SHAPE, SECONDS)
    for shape, seconds in ((gif, 9.0), (SHAPE, 1.0)):
        found = pace.stage_seconds(shape)
        assert found is not None and found["encode"] == seconds
