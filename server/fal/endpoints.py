"""The endpoints of fal that are served: what each reads, answers and makes of a request.

A request model crosses into the pipeline here: from JSON to a `VideoSpec` and its media.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails

from pipeline.spec import MAX_FRAMES, Container, FirstFrame, Quality, VideoSpec, seed_of
from server.fal.invalid_input import InvalidInput
from server.fal.schemas import (
    ImageToVideoInput,
    ImageToVideoOutput,
    check_as,
    item_of,
    parse_json,
)

MAX_NAMED_FIELDS = 10
"""Ignored fields of one request that its log names."""
MAX_NAME_LENGTH = 40


@dataclass(frozen=True, slots=True)
class Limits:
    """What the checkpoint that is served can do, within what the endpoint's page allows."""

    width: int
    height: int
    max_frames: int = MAX_FRAMES


@dataclass(frozen=True, slots=True)
class VideoRequest:
    """A valid request: what to make, of which media (a URL by name), and how to hand it out.

    `notes` are sentences for the job's log.
    """

    spec: VideoSpec
    media: Mapping[str, str]
    sync_mode: bool
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One thing that can be asked for. `media_fields` maps a medium to its input field."""

    title: str
    summary: str
    category: str
    request: type[BaseModel]
    response: type[BaseModel]
    to_video_request: Callable[[Any, Limits], VideoRequest]
    media_fields: Mapping[str, str]


def image_to_video(given: ImageToVideoInput, limits: Limits) -> VideoRequest:
    """What to make of an image and a prompt. A seed is drawn if none is given."""
    num_frames, limit = given.num_frames, limits.max_frames
    if "num_frames" not in given.model_fields_set:
        num_frames = min(num_frames, limit)
    if num_frames > limit:
        # As pydantic does when a field breaks a limit; this one is the checkpoint's.
        detail = InitErrorDetails(
            type="less_than_equal", loc=("num_frames",), input=num_frames, ctx={"le": limit}
        )
        raise ValidationError.from_exception_data("input", [detail])
    spec = VideoSpec(
        prompt=given.prompt,
        negative_prompt=given.negative_prompt,
        seed=seed_of(given.seed),
        num_frames=num_frames,
        num_inference_steps=given.num_inference_steps,
        guidance_scale=given.guidance_scale,
        container=Container(given.video_output_type),
        quality=Quality(given.video_quality),
        conditioning=FirstFrame(),
    )
    # As browsers do: what was read from a file often ends with a line break.
    media = {"image": given.image_url.strip()}
    return VideoRequest(spec=spec, media=media, sync_mode=given.sync_mode)


ENDPOINTS: Mapping[str, Endpoint] = {
    "fal-ai/cosmos-predict-2.5/image-to-video": Endpoint(
        title="Cosmos Predict 2.5 2B",
        summary="Generate video from text and images using NVIDIA's 2B Cosmos Post-Trained Model",
        category="image-to-video",
        request=ImageToVideoInput,
        response=ImageToVideoOutput,
        to_video_request=image_to_video,
        media_fields={"image": "image_url"},
    )
}


def app_of(endpoint: str) -> str:
    """The first two segments of an endpoint's id: all that fal's clients keep for later calls."""
    return "/".join(endpoint.split("/")[:2])


def parse_request(endpoint: str, body: bytes, limits: Limits) -> VideoRequest:
    """Read a request's body, whatever its Content-Type says.

    Raises:
        InvalidInput: the body is not JSON, or a field is missing or out of range.
    """
    described = ENDPOINTS[endpoint]
    given = parse_json(body)
    request = check_as(described.request, given)
    try:
        order = described.to_video_request(request, limits)
    except ValidationError as error:
        raise InvalidInput([item_of(each) for each in error.errors(include_url=False)]) from error
    return replace(order, notes=_notes_on_fields(given, described.request))


def _notes_on_fields(given: Mapping[str, Any], model: type[BaseModel]) -> Sequence[str]:
    """What the log says of fields that the endpoint does not have: they were ignored.

    Clients send such fields on purpose, and people by mistake.
    """
    ignored = [name for name in given if name not in model.model_fields]
    if not ignored:
        return ()
    named = [_with_nearest(name, model) for name in ignored[:MAX_NAMED_FIELDS]]
    if len(ignored) > MAX_NAMED_FIELDS:
        named.append(f"and {len(ignored) - MAX_NAMED_FIELDS:,} more")
    return (f"Ignored, because this endpoint has no such field: {', '.join(named)}.",)


def _with_nearest(name: str, model: type[BaseModel]) -> str:
    # `repr` also spells what neither a database nor a terminal can take.
    shown = repr(name if len(name) <= MAX_NAME_LENGTH else f"{name[:MAX_NAME_LENGTH]}…")
    nearest = difflib.get_close_matches(name[:MAX_NAME_LENGTH], model.model_fields, n=1)
    return f"{shown} (did you mean {nearest[0]!r}?)" if nearest else shown
