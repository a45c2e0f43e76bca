"""fal's inputs and outputs as its pages have them: names, order, defaults, ranges, words.

Unknown keys are ignored: clients for many models send theirs to each. What a request means, and
what its log says of such keys, is in `server.fal.endpoints`.
"""

import json
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError, PydanticKnownError

from pipeline.spec import (
    DEFAULT_NEGATIVE_PROMPT,
    MAX_FRAMES,
    MAX_GUIDANCE,
    MAX_SEED,
    MAX_STEPS,
    MIN_FRAMES,
    MIN_GUIDANCE,
    MIN_STEPS,
    RANDOM_SEED,
    max_frames,
)
from server.fal.invalid_input import InvalidInput, error_item

VideoOutputType = Literal["X264 (.mp4)", "VP9 (.webm)", "PRORES4444 (.mov)", "GIF (.gif)"]
VideoQuality = Literal["low", "medium", "high", "maximum"]

MAX_DISTILLED_STEPS = 20
"""Of the endpoint whose model was distilled to need few."""

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
    # Nor can PostgreSQL keep this one, and nobody means it.
    if "\0" in value:
        raise PydanticCustomError("value_error", "Leave out the character U+0000")
    return value


Text = Annotated[str, AfterValidator(_check_text)]
Model = TypeVar("Model", bound=BaseModel)


Prompt = Annotated[
    Text,
    Field(
        description="The text prompt describing the video to generate.", examples=[EXAMPLE_PROMPT]
    ),
]
NegativePrompt = Annotated[
    Text, Field(description="A negative prompt to guide generation away from undesired content.")
]
NumFrames = Annotated[
    int,
    Field(
        ge=MIN_FRAMES,
        le=MAX_FRAMES,
        title="Number of Frames",
        description="Number of frames to generate. Must be between 9 and 93.",
    ),
]
Seed = Annotated[
    int | None,
    Field(ge=RANDOM_SEED, le=MAX_SEED, description="Random seed for reproducible generation."),
]
SyncMode = Annotated[
    bool,
    Field(
        description="If `True`, the media will be returned as a data URI and the output data "
        "won't be available in the request history."
    ),
]
OutputType = Annotated[VideoOutputType, Field(description="The format of the output video.")]
OutputQuality = Annotated[VideoQuality, Field(description="The quality of the output video.")]
FileUrl = Annotated[Text, Field(json_schema_extra={"x-fal-file-input": True})]
"""A file that clients may upload first, and that pages draw a button for."""


class TextToVideoInput(BaseModel):
    """The input of `fal-ai/cosmos-predict-2.5/text-to-video`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt: Prompt
    negative_prompt: NegativePrompt = DEFAULT_NEGATIVE_PROMPT
    num_frames: NumFrames = MAX_FRAMES
    num_inference_steps: Annotated[
        int,
        Field(
            ge=MIN_STEPS,
            le=MAX_STEPS,
            title="Number of Inference Steps",
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
    seed: Seed = None
    sync_mode: SyncMode = False
    video_output_type: OutputType = "X264 (.mp4)"
    video_quality: OutputQuality = "high"


class ImageToVideoInput(TextToVideoInput):
    """The input of `fal-ai/cosmos-predict-2.5/image-to-video`."""

    image_url: Annotated[
        FileUrl,
        Field(
            title="Image URL",
            description="URL of the input image to use as first frame.",
            examples=[EXAMPLE_IMAGE],
        ),
    ]


class VideoToVideoInput(TextToVideoInput):
    """The input of `fal-ai/cosmos-predict-2.5/video-to-video`."""

    video_url: Annotated[
        FileUrl,
        Field(
            title="Video URL",
            description="URL of the input video to use as conditioning.",
            examples=[EXAMPLE_VIDEO["url"]],
        ),
    ]


class ExtendVideoInput(TextToVideoInput):
    """The input of `cosmos-serve/extend-video`, which fal does not have."""

    num_frames: Annotated[
        int,
        Field(
            ge=MIN_FRAMES,
            le=max_frames(1),
            title="Number of Frames",
            description="Number of frames to generate. Must be between 9 and "
            f"{max_frames(1)} with an overlap of 1, or {max_frames(5)} with 5.",
        ),
    ] = max_frames(5, chunks=2)
    image_url: Annotated[
        FileUrl | None,
        Field(
            title="Image URL",
            description="URL of the input image to use as first frame. Give either this or "
            "`video_url`.",
        ),
    ] = None
    video_url: Annotated[
        FileUrl | None,
        Field(
            title="Video URL",
            description="URL of the input video to go on from. Give either this or `image_url`.",
            examples=[EXAMPLE_VIDEO["url"]],
        ),
    ] = None
    overlap: Annotated[
        Literal[1, 5],
        Field(
            description="Frames of a chunk that the next one begins with, where the video is made "
            "of several. 5 carry the motion over."
        ),
    ] = 5
    resample_fps: Annotated[
        bool,
        Field(
            title="Resample FPS",
            description="Take the frames of the input video at 16 a second, which is the rate of "
            "the output, and not at its own rate.",
        ),
    ] = False


class DistilledTextToVideoInput(BaseModel):
    """The input of `fal-ai/cosmos-predict-2.5/distilled/text-to-video`, which has no guidance."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt: Prompt
    negative_prompt: NegativePrompt = DEFAULT_NEGATIVE_PROMPT
    num_frames: NumFrames = MAX_FRAMES
    num_inference_steps: Annotated[
        int,
        Field(
            ge=MIN_STEPS,
            le=MAX_DISTILLED_STEPS,
            description="Number of denoising steps. Distilled model works well with fewer steps.",
        ),
    ] = 10
    seed: Seed = None
    sync_mode: SyncMode = False
    video_output_type: OutputType = "X264 (.mp4)"
    video_quality: OutputQuality = "high"


class VideoFile(BaseModel):
    """A video that was made."""

    url: Annotated[str, Field(description="The URL where the file can be downloaded from.")]
    content_type: Annotated[
        str | None, Field(description="The mime type of the file.", examples=["image/png"])
    ] = None
    file_name: Annotated[
        str | None,
        Field(
            description="The name of the file. It will be auto-generated if not provided.",
            examples=["z9RV14K95DvU.png"],
        ),
    ] = None
    file_size: Annotated[
        int | None, Field(description="The size of the file in bytes.", examples=[4404019])
    ] = None
    width: Annotated[int | None, Field(description="The width of the video")] = None
    height: Annotated[int | None, Field(description="The height of the video")] = None
    fps: Annotated[float | None, Field(description="The FPS of the video")] = None
    duration: Annotated[float | None, Field(description="The duration of the video")] = None
    num_frames: Annotated[int | None, Field(description="The number of frames in the video")] = None


class VideoOutput(BaseModel):
    """The output of every endpoint."""

    video: Annotated[
        VideoFile, Field(description="The generated video file.", examples=[EXAMPLE_VIDEO])
    ]
    seed: Annotated[int, Field(description="The random seed used for generation.")]


def read_as(model: type[Model], body: bytes) -> Model:
    """Read a request's body as a model, whatever its Content-Type says.

    Raises:
        InvalidInput: the body is not JSON, or a field is missing or out of range.
    """
    return check_as(model, parse_json(body))


def check_as(model: type[Model], given: Any) -> Model:
    """Check parsed JSON as a model.

    Raises:
        InvalidInput: a field is missing or out of range.
    """
    try:
        # `from_attributes` gives a body that is no object the same error that FastAPI gives it.
        return model.model_validate(given, from_attributes=True)
    except ValidationError as error:
        raise InvalidInput([item_of(each) for each in error.errors(include_url=False)]) from error


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


def item_of(error: Any) -> dict[str, Any]:
    """One of pydantic's errors as an item of fal's `detail`."""
    return error_item(
        ("body", *error["loc"]), error["msg"], error["type"], error["input"], error.get("ctx")
    )
