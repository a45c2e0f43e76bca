"""The endpoints of fal that are served: what each reads, answers and makes of a request.

A request model crosses into the pipeline here: from JSON to a `VideoSpec` and its media.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails

from pipeline.spec import (
    FPS,
    MAX_FRAMES,
    OVERLAPS,
    Clip,
    Conditioning,
    Container,
    FirstFrame,
    Quality,
    Sampler,
    VideoSpec,
    max_frames,
    seed_of,
)
from server.fal.invalid_input import InvalidInput, error_item
from server.fal.schemas import (
    DistilledTextToVideoInput,
    ExtendVideoInput,
    ImageToVideoInput,
    TextToVideoInput,
    VideoOutput,
    VideoToVideoInput,
    check_as,
    item_of,
    parse_json,
)
from weights.checkpoint_profile import CheckpointProfile

MAX_NAMED_FIELDS = 10
"""Ignored fields of one request that its log names."""
MAX_NAME_LENGTH = 40

_NO_NEGATIVE_PROMPT = "The negative prompt has no effect: the distilled model has no guidance."
_NO_FPS = "resample_fps has no effect: the video goes on from a picture."


@dataclass(frozen=True, slots=True)
class Limits:
    """What the checkpoints that are served can do, within what the endpoints' pages allow."""

    width: int
    height: int
    max_frames: int = MAX_FRAMES
    samplers: Set[Sampler] = frozenset({Sampler.UNIPC})
    """Those that the checkpoints are trained for."""

    @classmethod
    def of(cls, *profiles: CheckpointProfile) -> "Limits":
        """What these checkpoints can do together; they make videos of one size."""
        first = profiles[0]
        samplers = frozenset(Sampler(each.sampler) for each in profiles)
        return cls(first.width, first.height, min(first.max_frames, MAX_FRAMES), samplers)

    def longest(self, overlap: int | None) -> int:
        """The frames of the longest video: of one chunk, or, with an overlap, of several."""
        return max_frames(overlap, self.max_frames)

    def default_frames(self, *, is_long: bool) -> int:
        """The frames of a video of which nothing is said: of one chunk, or of two."""
        return max_frames(max(OVERLAPS) if is_long else None, self.max_frames, chunks=2)

    @property
    def endpoints(self) -> list[str]:
        """The ids of the endpoints whose weights are here."""
        return [id_ for id_, each in ENDPOINTS.items() if each.sampler in self.samplers]


@dataclass(frozen=True, slots=True)
class VideoRequest:
    """A valid request: what to make, of which media (a URL by name), and how to hand it out.

    `clip_fps` is the rate at which the frames of a clip are taken; None is the clip's own. `notes`
    are sentences for the job's log.
    """

    spec: VideoSpec
    media: Mapping[str, str]
    sync_mode: bool
    clip_fps: int | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One thing that can be asked for.

    `media_fields` maps a medium to its input field. `sampler` is the one that its checkpoint is
    trained for. A video is of one chunk, or, if it `is_long`, of several.
    """

    title: str
    summary: str
    category: str
    request: type[BaseModel]
    to_video_request: Callable[[Any, Limits], VideoRequest]
    media_fields: Mapping[str, str] = field(default_factory=dict)
    sampler: Sampler = Sampler.UNIPC
    is_long: bool = False
    response: type[BaseModel] = VideoOutput

    def max_frames(self, limits: Limits) -> int:
        """The frames of the longest video, with any overlap."""
        return limits.longest(min(OVERLAPS) if self.is_long else None)


def text_to_video(given: TextToVideoInput, limits: Limits) -> VideoRequest:
    """What to make of a prompt alone."""
    return _video_request(given, limits, guidance_scale=given.guidance_scale)


def image_to_video(given: ImageToVideoInput, limits: Limits) -> VideoRequest:
    """What to make of an image and a prompt."""
    request = _video_request(
        given, limits, guidance_scale=given.guidance_scale, conditioning=FirstFrame()
    )
    return replace(request, media={"image": _url(given.image_url)})


def video_to_video(given: VideoToVideoInput, limits: Limits) -> VideoRequest:
    """What to make of a video and a prompt."""
    request = _video_request(
        given, limits, guidance_scale=given.guidance_scale, conditioning=Clip()
    )
    return replace(request, media={"video": _url(given.video_url)})


def extend_video(given: ExtendVideoInput, limits: Limits) -> VideoRequest:
    """What to make of an image or a video and a prompt, in as many chunks as it takes."""
    urls = {"image": given.image_url, "video": given.video_url}
    media = {name: _url(url) for name, url in urls.items() if url is not None}
    if len(media) != 1:
        message, kind = "Give image_url or video_url.", "missing"
        if media:
            message, kind = "Give either image_url or video_url, and not both.", "value_error"
        raise InvalidInput([error_item(("body", "video_url"), message, kind, given.video_url)])
    request = _video_request(
        given,
        limits,
        guidance_scale=given.guidance_scale,
        conditioning=Clip() if "video" in media else FirstFrame(),
        overlap=given.overlap,
    )
    if given.resample_fps and "video" in media:
        request = replace(request, clip_fps=FPS)
    elif given.resample_fps:
        request = replace(request, notes=(_NO_FPS,))
    return replace(request, media=media)


def distilled_text_to_video(given: DistilledTextToVideoInput, limits: Limits) -> VideoRequest:
    """What the distilled model is to make of a prompt: it was distilled with guidance, and takes
    none."""
    request = _video_request(given, limits, guidance_scale=1.0, sampler=Sampler.TRIGFLOW)
    given_in_vain = "negative_prompt" in given.model_fields_set
    return replace(request, notes=(_NO_NEGATIVE_PROMPT,) if given_in_vain else ())


def _video_request(
    given: TextToVideoInput | DistilledTextToVideoInput,
    limits: Limits,
    *,
    guidance_scale: float,
    conditioning: Conditioning = None,
    sampler: Sampler = Sampler.UNIPC,
    overlap: int | None = None,
) -> VideoRequest:
    """The video without its media. A seed is drawn if none is given."""
    num_frames, limit = given.num_frames, limits.longest(overlap)
    if "num_frames" not in given.model_fields_set:
        num_frames = limits.default_frames(is_long=overlap is not None)
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
        guidance_scale=guidance_scale,
        container=Container(given.video_output_type),
        quality=Quality(given.video_quality),
        conditioning=conditioning,
        sampler=sampler,
        overlap=overlap,
    )
    return VideoRequest(spec=spec, media={}, sync_mode=given.sync_mode)


def _url(given: str) -> str:
    # As browsers do: what was read from a file often ends with a line break.
    return given.strip()


APP = "fal-ai/cosmos-predict-2.5"
EXTEND = "cosmos-serve/extend-video"
"""The one endpoint that is not fal's."""

ENDPOINTS: Mapping[str, Endpoint] = {
    f"{APP}/image-to-video": Endpoint(
        title="Cosmos Predict 2.5 2B",
        summary="Generate video from text and images using NVIDIA's 2B Cosmos Post-Trained Model",
        category="image-to-video",
        request=ImageToVideoInput,
        to_video_request=image_to_video,
        media_fields={"image": "image_url"},
    ),
    f"{APP}/text-to-video": Endpoint(
        title="Cosmos Predict 2.5 2B",
        summary="Generate a video from a text prompt using Cosmos Predict 2.5 2B (post-trained)",
        category="text-to-video",
        request=TextToVideoInput,
        to_video_request=text_to_video,
    ),
    f"{APP}/video-to-video": Endpoint(
        title="Cosmos Predict 2.5 2B",
        summary="Generate video from text and videos using NVIDIA's 2B Cosmos Post-Trained Model",
        category="video-to-video",
        request=VideoToVideoInput,
        to_video_request=video_to_video,
        media_fields={"video": "video_url"},
    ),
    f"{APP}/distilled/text-to-video": Endpoint(
        title="Cosmos Predict 2.5 2B Distilled",
        summary="Generate a video from a text prompt in few steps using Cosmos Predict 2.5 2B "
        "(distilled)",
        category="text-to-video",
        request=DistilledTextToVideoInput,
        to_video_request=distilled_text_to_video,
        sampler=Sampler.TRIGFLOW,
    ),
    EXTEND: Endpoint(
        title="Cosmos Predict 2.5 2B Extend",
        summary="Generate a long video from text and an image or a video, in up to four chunks "
        "that go on from one another",
        category="video-to-video",
        request=ExtendVideoInput,
        to_video_request=extend_video,
        media_fields={"image": "image_url", "video": "video_url"},
        is_long=True,
    ),
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
    return replace(order, notes=(*order.notes, *_notes_on_fields(given, described.request)))


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
