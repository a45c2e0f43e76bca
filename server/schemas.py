"""fal's input and output as the endpoint's page has them: names, order, defaults, ranges, words.

A request model is read from JSON and crosses into the pipeline by `to_spec`. Unknown keys are
ignored: clients for many models send theirs to each.
"""

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticKnownError

from pipeline.spec import (
    DEFAULT_NEGATIVE_PROMPT,
    MAX_FRAMES,
    MAX_GUIDANCE,
    MAX_SEED,
    MAX_STEPS,
    MIN_FRAMES,
    MIN_GUIDANCE,
    MIN_STEPS,
    Container,
    FirstFrame,
    Quality,
    VideoSpec,
)
from server.errors import InvalidInput, error_item

VideoOutputType = Literal["X264 (.mp4)", "VP9 (.webm)", "PRORES4444 (.mov)", "GIF (.gif)"]
VideoQuality = Literal["low", "medium", "high", "maximum"]

EXAMPLE_PROMPT = (
    "A static, locked-off camera frames an industrial conveyor belt steadily transporting rough "
    "rocks through a dimly lit quarry processing facility. The belt runs horizontally across the "
    "center of the frame, its thick black rubber surface textured with dust and fine gravel. "
    "Jagged gray and brown stones of varying sizes tumble forward in a slow, continuous motion, "
    "their sharp edges catching the light. Subtle vibrations ripple through the belt\u2019s "
    "surface as small pebbles bounce and shift. In the background, blurred steel beams, pipes, "
    "and muted industrial machinery create depth without distraction. Cool, diffused overhead "
    "lighting casts soft shadows and highlights the gritty textures, emphasizing dust particles "
    "in the air and the raw, rugged surfaces of the rocks."
)
EXAMPLE_IMAGE = (
    "https://v3b.fal.media/files/b/0a8fc99c/rOav2GLXy0psA9R43CQO2_"
    "c6c3b762e7f846fcab0a7bbf124eb03b.jpg"
)
EXAMPLE_VIDEO = {
    "url": "https://v3b.fal.media/files/b/0a8fabc5/qAi19s0dSuQHDZ3O7D_HV_FkSwbls1.mp4",
    "content_type": "video/mp4",
}


def _check_text(value: str) -> str:
    # JSON can spell half a surrogate pair, which no tokenizer, file or URL can take.
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise PydanticKnownError("string_unicode")
    return value


Text = Annotated[str, AfterValidator(_check_text)]
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the checkpoint that is served can do, within what the endpoint's page allows."""

    width: int
    height: int
    max_frames: int = MAX_FRAMES


class ImageToVideoInput(BaseModel):
    """The input of `fal-ai/cosmos-predict-2.5/image-to-video`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt: Annotated[
        Text,
        Field(
            description="The text prompt describing the video to generate.",
            examples=[EXAMPLE_PROMPT],
        ),
    ]
    negative_prompt: Annotated[
        Text,
        Field(description="A negative prompt to guide generation away from undesired content."),
    ] = DEFAULT_NEGATIVE_PROMPT
    num_frames: Annotated[
        int,
        Field(
            ge=MIN_FRAMES,
            le=MAX_FRAMES,
            description="Number of frames to generate. Must be between 9 and 93.",
        ),
    ] = MAX_FRAMES
    num_inference_steps: Annotated[
        int,
        Field(
            ge=MIN_STEPS,
            le=MAX_STEPS,
            description="Number of denoising steps. More steps yield higher quality but take "
            "longer.",
        ),
    ] = 35
    guidance_scale: Annotated[
        float,
        Field(
            ge=MIN_GUIDANCE,
            le=MAX_GUIDANCE,
            description="Classifier-free guidance scale. Higher values increase prompt adherence.",
        ),
    ] = 7.0
    seed: Annotated[
        int | None,
        Field(ge=0, le=MAX_SEED, description="Random seed for reproducible generation."),
    ] = None
    sync_mode: Annotated[
        bool,
        Field(
            description="If `True`, the media will be returned as a data URI and the output data "
            "won't be available in the request history."
        ),
    ] = False
    video_output_type: Annotated[
        VideoOutputType, Field(description="The format of the output video.")
    ] = "X264 (.mp4)"
    video_quality: Annotated[
        VideoQuality, Field(description="The quality of the output video.")
    ] = "high"
    image_url: Annotated[
        Text,
        Field(
            description="URL of the input image to use as first frame.", examples=[EXAMPLE_IMAGE]
        ),
    ]


class VideoFile(BaseModel):
    """A video that was made."""

    url: Annotated[str, Field(description="The URL where the file can be downloaded from.")]
    content_type: Annotated[str | None, Field(description="The mime type of the file.")] = None
    file_name: Annotated[str | None, Field(description="The name of the file.")] = None
    file_size: Annotated[int | None, Field(description="The size of the file in bytes.")] = None
    width: Annotated[int | None, Field(description="The width of the video in pixels.")] = None
    height: Annotated[int | None, Field(description="The height of the video in pixels.")] = None
    fps: Annotated[float | None, Field(description="The frames of a second.")] = None
    duration: Annotated[float | None, Field(description="The length in seconds.")] = None
    num_frames: Annotated[int | None, Field(description="The number of frames.")] = None


class ImageToVideoOutput(BaseModel):
    """The output of `fal-ai/cosmos-predict-2.5/image-to-video`."""

    video: Annotated[
        VideoFile, Field(description="The generated video file.", examples=[EXAMPLE_VIDEO])
    ]
    seed: Annotated[int, Field(description="The random seed used for generation.")]


@dataclass(frozen=True, slots=True)
class Order:
    """A valid request: what to make, of which media (a URL by name), and how to hand it out."""

    spec: VideoSpec
    media: Mapping[str, str]
    sync_mode: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One thing that can be asked for. `media_fields` maps a medium to its input field."""

    title: str
    summary: str
    category: str
    request: type[BaseModel]
    response: type[BaseModel]
    to_order: Callable[[Any, Limits], Order]
    media_fields: Mapping[str, str]


def image_to_video(given: ImageToVideoInput, limits: Limits) -> Order:
    """What to make of an image and a prompt. A seed is drawn if none is given."""
    num_frames = given.num_frames
    if "num_frames" not in given.model_fields_set:
        num_frames = min(num_frames, limits.max_frames)
    if num_frames > limits.max_frames:
        _refuse_num_frames(num_frames, limits.max_frames)
    spec = VideoSpec(
        prompt=given.prompt,
        negative_prompt=given.negative_prompt,
        seed=secrets.randbelow(MAX_SEED + 1) if given.seed is None else given.seed,
        num_frames=num_frames,
        num_inference_steps=given.num_inference_steps,
        guidance_scale=given.guidance_scale,
        container=Container(given.video_output_type),
        quality=Quality(given.video_quality),
        conditioning=FirstFrame(),
    )
    return Order(spec=spec, media={"image": given.image_url}, sync_mode=given.sync_mode)


ENDPOINTS: Mapping[str, Endpoint] = {
    "fal-ai/cosmos-predict-2.5/image-to-video": Endpoint(
        title="Cosmos Predict 2.5 2B",
        summary="Generate video from text and images using NVIDIA's 2B Cosmos Post-Trained Model",
        category="image-to-video",
        request=ImageToVideoInput,
        response=ImageToVideoOutput,
        to_order=image_to_video,
        media_fields={"image": "image_url"},
    )
}


def app_of(endpoint: str) -> str:
    """The first two segments of an endpoint's id: all that fal's clients keep for later calls."""
    return "/".join(endpoint.split("/")[:2])


def read_as(model: type[Model], body: bytes) -> Model:
    """Read a request's body as a model, whatever its Content-Type says.

    Raises:
        InvalidInput: the body is not JSON, or a field is missing or out of range.
    """
    given = parse_json(body)
    try:
        # `from_attributes` gives a body that is no object the same error that FastAPI gives it.
        return model.model_validate(given, from_attributes=True)
    except ValidationError as error:
        raise InvalidInput([_item(each) for each in error.errors(include_url=False)]) from error


def read_order(endpoint: str, body: bytes, limits: Limits) -> Order:
    """Read a request's body, whatever its Content-Type says.

    Raises:
        InvalidInput: the body is not JSON, or a field is missing or out of range.
    """
    described = ENDPOINTS[endpoint]
    request = read_as(described.request, body)
    try:
        return described.to_order(request, limits)
    except ValidationError as error:
        raise InvalidInput([_item(each) for each in error.errors(include_url=False)]) from error


def parse_json(body: bytes) -> Any:
    """Parse JSON strictly: no NaN, no infinity.

    Raises:
        InvalidInput: it is not JSON; the item names the position.
    """
    if not body:
        raise InvalidInput([error_item(("body",), "Field required", "missing", None)])
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        _refuse_json(error.pos, error.msg)
    except (ValueError, RecursionError) as error:
        _refuse_json(0, str(error))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse_json(position: int, reason: str) -> NoReturn:
    item = error_item(
        ("body", position), "JSON decode error", "json_invalid", {}, {"error": reason}
    )
    raise InvalidInput([item])


def _refuse_num_frames(given: int, limit: int) -> NoReturn:
    """Fail as pydantic does when a field breaks a limit, here one that the checkpoint sets."""
    detail = InitErrorDetails(
        type="less_than_equal", loc=("num_frames",), input=given, ctx={"le": limit}
    )
    raise ValidationError.from_exception_data("input", [detail])


def _item(error: Any) -> dict[str, Any]:
    return error_item(
        ("body", *error["loc"]), error["msg"], error["type"], error["input"], error.get("ctx")
    )
