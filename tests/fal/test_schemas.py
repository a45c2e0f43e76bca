"""fal's input as the endpoint's page has it, and the items of its 422."""

import json
from typing import Any

import pytest

from pipeline.spec import (
    DEFAULT_NEGATIVE_PROMPT,
    DRAWN_SEEDS,
    MAX_SEED,
    Clip,
    Container,
    FirstFrame,
    Quality,
    Sampler,
    VideoSpec,
)
from server.fal.endpoints import APP, EXTEND, Limits, VideoRequest, parse_request
from server.fal.invalid_input import InvalidInput
from server.fal.schemas import ImageToVideoInput, VideoOutput

ENDPOINT = "fal-ai/cosmos-predict-2.5/image-to-video"
LIMITS = Limits(96, 64)
PLAIN = {"prompt": "a red car", "image_url": "https://example.com/car.jpg"}


def read(limits: Limits = LIMITS, **fields: Any) -> VideoRequest:
    return parse_request(ENDPOINT, json.dumps(PLAIN | fields).encode(), limits)


def items(body: bytes) -> list[Any]:
    with pytest.raises(InvalidInput) as refused:
        parse_request(ENDPOINT, body, LIMITS)
    # What is refused must be possible to send.
    json.dumps(refused.value.items, allow_nan=False).encode()
    return refused.value.items


def test_the_fields_are_in_the_order_of_the_page() -> None:
    assert list(ImageToVideoInput.model_fields) == [
        "prompt",
        "negative_prompt",
        "num_frames",
        "num_inference_steps",
        "guidance_scale",
        "seed",
        "sync_mode",
        "video_output_type",
        "video_quality",
        "image_url",
    ]
    assert list(VideoOutput.model_fields) == ["video", "seed"]


def test_the_defaults_are_those_of_the_page() -> None:
    order = read()

    assert order.spec == VideoSpec(
        prompt="a red car",
        negative_prompt=DEFAULT_NEGATIVE_PROMPT,
        num_frames=93,
        num_inference_steps=35,
        guidance_scale=7.0,
        seed=order.spec.seed,
        container=Container.X264,
        quality=Quality.HIGH,
    )
    assert order.media == {"image": "https://example.com/car.jpg"}
    assert order.sync_mode is False


def test_every_output_type_and_quality_is_accepted() -> None:
    for container in Container:
        assert read(video_output_type=container.value).spec.container is container
    for quality in Quality:
        assert read(video_quality=quality.value).spec.quality is quality


def test_a_seed_is_drawn_once_where_none_is_given() -> None:
    seeds = {read().spec.seed, read(seed=None).spec.seed, read(seed=-1).spec.seed}

    assert len(seeds) == 3
    # JavaScript reads them exactly.
    assert DRAWN_SEEDS == 2**53
    assert all(0 <= seed < DRAWN_SEEDS for seed in seeds)
    assert read(seed=0).spec.seed == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"num_frames": 9},
        {"num_frames": "21"},
        {"num_inference_steps": 1},
        {"num_inference_steps": 50},
        {"guidance_scale": 1},
        {"guidance_scale": 20},
        {"seed": 2**63 - 1},
        {"prompt": ""},
        {"aspect_ratio": "16:9", "duration": "5s"},
    ],
)
def test_the_ends_of_the_ranges_and_unknown_keys_are_accepted(fields: dict[str, Any]) -> None:
    spec = read(**fields).spec.to_json()

    for name, value in fields.items():
        if name in spec:
            assert spec[name] == (21 if value == "21" else value)
    assert not {"aspect_ratio", "duration"} & spec.keys()


def test_ignored_fields_are_named_with_the_nearest_that_there_is() -> None:
    (note,) = read(output_type="webm", num_frame=9, fps=24).notes

    assert note == (
        "Ignored, because this endpoint has no such field: 'output_type' (did you mean "
        "'video_output_type'?), 'num_frame' (did you mean 'num_frames'?), 'fps'."
    )
    assert read(num_frames=9).notes == ()


def test_what_is_said_of_ignored_fields_is_short_and_can_be_written() -> None:
    fields: dict[str, Any] = {f"\ud800{'n' * 10_000}{number}": 1 for number in range(500)}
    (note,) = read(**fields).notes

    assert len(note.encode()) < 1000
    assert "and 490 more" in note


@pytest.mark.parametrize(
    ("fields", "kind", "message", "context"),
    [
        ({"num_frames": 94}, "less_than_equal", "less than or equal to 93", {"le": 93}),
        ({"num_frames": 8}, "greater_than_equal", "greater than or equal to 9", {"ge": 9}),
        ({"num_frames": "x"}, "int_parsing", "valid integer", None),
        ({"num_frames": 9.5}, "int_from_float", "valid integer", None),
        ({"num_inference_steps": 0}, "greater_than_equal", "equal to 1", {"ge": 1}),
        ({"num_inference_steps": 51}, "less_than_equal", "equal to 50", {"le": 50}),
        ({"guidance_scale": 0.5}, "greater_than_equal", "equal to 1", {"ge": 1.0}),
        ({"guidance_scale": 20.5}, "less_than_equal", "equal to 20", {"le": 20.0}),
        ({"seed": -2}, "greater_than_equal", "equal to -1", {"ge": -1}),
        ({"seed": MAX_SEED + 1}, "less_than_equal", str(MAX_SEED), {"le": MAX_SEED}),
        (
            {"video_quality": "x"},
            "literal_error",
            "Input should be 'low', 'medium', 'high' or 'maximum'",
            {"expected": "'low', 'medium', 'high' or 'maximum'"},
        ),
        ({"prompt": None}, "string_type", "valid string", None),
        ({"prompt": "\ud800"}, "string_unicode", "unicode string", None),
        ({"prompt": "a\0b"}, "value_error", "Leave out the character U+0000", None),
        ({"image_url": "http://a.example/\0"}, "value_error", "character U+0000", None),
        ({"sync_mode": "maybe"}, "bool_parsing", "valid boolean", None),
    ],
)
def test_a_field_out_of_range_is_named_in_fals_shape(
    fields: dict[str, Any], kind: str, message: str, context: dict[str, Any] | None
) -> None:
    (field,) = fields
    (item,) = items(json.dumps(PLAIN | fields).encode())

    assert item["loc"] == ["body", field]
    assert item["type"] == kind
    assert item["url"] == f"https://docs.fal.ai/errors#{kind}"
    assert message in item["msg"]
    assert item.get("ctx") == context


def test_missing_fields_are_named_in_the_order_of_the_page() -> None:
    missing = items(b"{}")

    assert [item["loc"] for item in missing] == [["body", "prompt"], ["body", "image_url"]]
    assert all(item["type"] == "missing" and item["msg"] == "Field required" for item in missing)


@pytest.mark.parametrize(
    ("body", "kind", "loc"),
    [
        (b"", "missing", ["body"]),
        (b"{", "json_invalid", ["body", 1]),
        (b"\xff", "json_invalid", ["body", 0]),
        (b'{"seed": NaN}', "json_invalid", ["body", 0]),
        (b"[" * 100_000, "json_invalid", ["body", 0]),
        (b"9" * 5_000, "json_invalid", ["body", 0]),
        (b"[1]", "model_attributes_type", ["body"]),
        (b'"a red car"', "model_attributes_type", ["body"]),
        (b"null", "model_attributes_type", ["body"]),
    ],
)
def test_a_body_that_is_no_object_is_refused(body: bytes, kind: str, loc: list[Any]) -> None:
    (item,) = items(body)

    assert (item["type"], item["loc"]) == (kind, loc)


def test_an_error_repeats_no_more_than_the_beginning_of_a_long_value() -> None:
    (item,) = items(json.dumps({"prompt": "x", "IMAGE": "y" * 1_000_000}).encode())

    assert item["type"] == "missing"
    assert len(json.dumps(item)) < 1000


def test_infinity_does_not_get_into_an_answer() -> None:
    (item,) = items(b'{"prompt": "x", "image_url": "y", "guidance_scale": 1e999}')

    assert item["input"] == "inf"


# The other endpoints.

ALL = Limits(96, 64, samplers=frozenset(Sampler))


def read_as(name: str, **fields: Any) -> VideoRequest:
    return parse_request(f"{APP}/{name}", json.dumps({"prompt": "a car"} | fields).encode(), ALL)


def test_a_text_to_video_starts_from_nothing() -> None:
    order = read_as("text-to-video", guidance_scale=3)

    assert (order.spec.conditioning, order.media) == (None, {})
    assert (order.spec.sampler, order.spec.guidance_scale) == (Sampler.UNIPC, 3)


def test_a_video_to_video_goes_on_from_a_clip() -> None:
    order = read_as("video-to-video", video_url=" https://example.com/a.mp4\n")

    assert order.spec.conditioning == Clip()
    assert order.media == {"video": "https://example.com/a.mp4"}


def test_the_distilled_endpoint_has_another_sampler_and_no_guidance() -> None:
    order = read_as("distilled/text-to-video")
    spec = order.spec

    assert (spec.sampler, spec.guidance_scale) == (Sampler.TRIGFLOW, 1.0)
    assert (spec.num_inference_steps, spec.conditioning, order.media) == (10, None, {})
    assert read_as("distilled/text-to-video", num_inference_steps=20).spec.num_inference_steps == 20
    with pytest.raises(InvalidInput, match="less than or equal to 20"):
        read_as("distilled/text-to-video", num_inference_steps=21)


def test_what_the_distilled_endpoint_does_not_use_is_named() -> None:
    notes = read_as("distilled/text-to-video", guidance_scale=7, negative_prompt="blurred").notes

    assert "negative prompt has no effect" in notes[0]
    assert "'guidance_scale'" in notes[1]
    assert read_as("distilled/text-to-video").notes == ()


def test_the_checkpoint_may_allow_fewer_frames() -> None:
    short = Limits(96, 64, max_frames=45)

    assert read(short).spec.num_frames == 45
    assert read(short, num_frames=45).spec.num_frames == 45
    with pytest.raises(InvalidInput) as refused:
        read(short, num_frames=46)
    assert refused.value.items[0]["ctx"] == {"le": 45}
    assert refused.value.items[0]["loc"] == ["body", "num_frames"]


# Long videos.

VIDEO: dict[str, Any] = {"video_url": "https://example.com/a.mp4"}
IMAGE: dict[str, Any] = {"image_url": "https://example.com/a"}


def extended(limits: Limits = LIMITS, **fields: Any) -> VideoRequest:
    return parse_request(EXTEND, json.dumps({"prompt": "a car"} | fields).encode(), limits)


def test_a_long_video_goes_on_from_a_video_or_a_picture() -> None:
    of_video, of_picture = extended(**VIDEO), extended(**IMAGE, video_url=None)

    assert (of_video.media, of_video.spec.conditioning) == ({"video": VIDEO["video_url"]}, Clip())
    assert of_picture.media == {"image": IMAGE["image_url"]}
    assert of_picture.spec.conditioning == FirstFrame()
    # Two chunks.
    assert (of_video.spec.num_frames, of_video.spec.overlap) == (93 + 88, 5)


def test_a_long_video_starts_from_one_of_them() -> None:
    for given, kind, message in (
        ({}, "missing", "Give image_url or video_url."),
        (VIDEO | IMAGE, "value_error", "Give either image_url or video_url, and not both."),
    ):
        with pytest.raises(InvalidInput) as refused:
            extended(**given)
        (item,) = refused.value.items
        assert (item["loc"], item["type"]) == (["body", "video_url"], kind)
        assert item["msg"] == message


@pytest.mark.parametrize(
    ("limits", "overlap", "longest"),
    [
        (LIMITS, 1, 369),
        (LIMITS, 5, 357),
        (Limits(96, 64, max_frames=45), 1, 177),
        (Limits(96, 64, max_frames=44), 5, 41 + 3 * 36),
    ],
)
def test_a_long_video_has_four_chunks_at_most(limits: Limits, overlap: int, longest: int) -> None:
    longest_one = extended(limits, **VIDEO, overlap=overlap, num_frames=longest).spec
    assert (longest_one.num_frames, longest_one.overlap) == (longest, overlap)
    with pytest.raises(InvalidInput) as refused:
        extended(limits, **VIDEO, overlap=overlap, num_frames=longest + 1)
    assert refused.value.items[0]["ctx"] == {"le": longest}


def test_chunks_overlap_by_one_frame_or_by_five() -> None:
    with pytest.raises(InvalidInput, match="Input should be 1 or 5"):
        extended(**VIDEO, overlap=2)


def test_only_the_frames_of_a_clip_can_be_resampled() -> None:
    assert extended(**VIDEO).clip_fps is None
    assert extended(**VIDEO, resample_fps=True).clip_fps == 16
    of_picture = extended(**IMAGE, resample_fps=True)
    assert (of_picture.clip_fps, len(of_picture.notes)) == (None, 1)
