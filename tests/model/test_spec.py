"""The one value that crosses from the server into the pipeline."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from strategies import specs

from pipeline.errors import InvalidSpec
from pipeline.spec import (
    DEFAULT_NEGATIVE_PROMPT,
    Container,
    FirstFrame,
    Pixels,
    Quality,
    VideoSpec,
    latent_frames,
    pictures_in,
)


@given(specs)
def test_a_spec_comes_back_from_json_as_it_went(spec: VideoSpec) -> None:
    assert VideoSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_every_value_of_a_spec_is_in_its_json() -> None:
    spec = VideoSpec(prompt="A calm sea.", seed=1)
    assert list(spec.to_json()) == [field.name for field in dataclasses.fields(VideoSpec)]


def test_what_is_not_given_is_as_the_endpoints_page_says() -> None:
    spec = VideoSpec(prompt="A calm sea.", seed=1)
    assert spec.negative_prompt == DEFAULT_NEGATIVE_PROMPT
    assert (spec.num_frames, spec.num_inference_steps, spec.guidance_scale) == (93, 35, 7)
    assert (spec.container, spec.quality) == (Container.X264, Quality.HIGH)
    assert spec.conditioning == FirstFrame()


RANGES: list[tuple[str, float, float]] = [
    ("num_frames", 9, 93),
    ("num_inference_steps", 1, 50),
    ("guidance_scale", 1.0, 20.0),
    ("seed", 0, 9_223_372_036_854_775_807),
]


@pytest.mark.parametrize(("name", "low", "high"), RANGES)
def test_both_ends_of_a_range_are_allowed_and_nothing_beyond(
    name: str, low: float, high: float
) -> None:
    for allowed in (low, high):
        assert getattr(_spec(**{name: allowed}), name) == allowed
    for refused in (low - 1, high + 1, -1e9, float("inf"), float("nan")):
        with pytest.raises(InvalidSpec, match=f"^{name} is .*; it must be from") as caught:
            _spec(**{name: refused})
        assert caught.value.field == name


def test_the_sentence_of_a_refusal_gives_the_range_in_full() -> None:
    with pytest.raises(InvalidSpec) as caught:
        _spec(seed=-1)
    assert str(caught.value) == "seed is -1; it must be from 0 to 9223372036854775807."


@pytest.mark.parametrize("num_frames", range(9, 94))
def test_the_latent_is_the_shortest_that_decodes_to_enough_frames(num_frames: int) -> None:
    latent = _spec(num_frames=num_frames).num_latent_frames
    assert latent == latent_frames(num_frames)
    decoded_frames = 1 + 4 * (latent - 1)
    assert 0 <= decoded_frames - num_frames < 4


def test_the_default_clip_has_24_latent_frames() -> None:
    assert latent_frames(93) == 24


@pytest.mark.parametrize(("guidance_scale", "guided"), [(1, False), (1.0, False), (1.01, True)])
def test_a_guidance_of_one_is_no_guidance(guidance_scale: float, guided: bool) -> None:
    spec = _spec(guidance_scale=guidance_scale)
    assert spec.guided is guided
    assert spec.num_branches == (2 if guided else 1)


@pytest.mark.parametrize("size", [0, 11, 13])
def test_a_picture_has_three_bytes_for_each_pixel(size: int) -> None:
    with pytest.raises(ValueError, match="A 2x2 RGB picture has 12 bytes"):
        Pixels(2, 2, bytes(size))


def test_a_medium_of_several_pictures_is_taken_apart() -> None:
    rgb = bytes(range(2 * 18))
    assert pictures_in(rgb, 3, 2) == (Pixels(3, 2, rgb[:18]), Pixels(3, 2, rgb[18:]))
    with pytest.raises(ValueError, match="36 bytes are no 3x3 RGB pictures"):
        pictures_in(rgb, 3, 3)


def _spec(**values: Any) -> VideoSpec:
    return VideoSpec(**{"prompt": "A calm sea.", "seed": 1, **values})
