"""What a request of OpenAI's videos API asks for: an endpoint, and its input in fal's words.

The endpoint's own schema checks the input. Here are only the fields that OpenAI's clients, and
those of vLLM-Omni, SGLang and FastVideo, call by other names.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pipeline.spec import FPS
from server.fal.endpoints import APP, ENDPOINTS, Limits
from server.fal.invalid_input import InvalidInput, error_item
from server.fal.schemas import Text

_LONGEST_S = 1_000_000.0
"""More seconds than any endpoint can make, and few enough to count their frames."""


def _parsed(value: Any) -> Any:
    """A reference in a form may be JSON."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


class VideoReference(BaseModel):
    """A picture or a video by its URL, which may be a data URI, or by its id on this server."""

    model_config = ConfigDict(extra="forbid")

    image_url: Text | None = None
    video_url: Text | None = None
    file_id: Text | None = None


AnyReference = Annotated[Text | VideoReference | None, BeforeValidator(_parsed)]


class CreateVideo(BaseModel):
    """A video that is asked for. Fields of the endpoint that are not listed here are passed on."""

    model_config = ConfigDict(extra="allow")

    prompt: Annotated[Text, Field(description="What the video shows.")]
    model: Annotated[
        str | None,
        Field(
            description="The id of an endpoint. If it is not given, that of image-to-video with a "
            "picture, of video-to-video with a video, else of text-to-video."
        ),
    ] = None
    seconds: Annotated[
        float | None,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="How long the video is: 16 frames a second, rounded to a whole frame. As "
            "long as the endpoint can make if it is not given.",
        ),
    ] = None
    size: Annotated[str | None, Field(description="The size that this server makes.")] = None
    input_reference: Annotated[
        AnyReference,
        Field(description="The picture or video to begin with: a file of the form, or a URL."),
    ] = None
    image_reference: Annotated[AnyReference, Field(description="A picture.")] = None
    video_reference: Annotated[AnyReference, Field(description="A video.")] = None
    reference_url: Annotated[Text | None, Field(description="The URL of either.")] = None
    image_url: Annotated[Text | None, Field(description="The URL of a picture.")] = None
    video_url: Annotated[Text | None, Field(description="The URL of a video.")] = None
    num_frames: Annotated[
        int | None, Field(description="The number of frames, whatever `seconds` says.")
    ] = None
    width: Annotated[int | None, Field(description="That of `size`.")] = None
    height: Annotated[int | None, Field(description="That of `size`.")] = None
    fps: Annotated[int | None, Field(description=f"{FPS}.")] = None
    num_inference_steps: Annotated[int | None, Field(description="As the endpoint has it.")] = None
    guidance_scale: Annotated[float | None, Field(description="As the endpoint has it.")] = None
    negative_prompt: Annotated[Text | None, Field(description="As the endpoint has it.")] = None
    seed: Annotated[int | None, Field(description="As the endpoint has it.")] = None
    video_output_type: Annotated[str | None, Field(description="As the endpoint has it.")] = None
    video_quality: Annotated[str | None, Field(description="As the endpoint has it.")] = None


_REFERENCES: Mapping[str, str | None] = {
    "input_reference": None,
    "reference_url": None,
    "image_reference": "image",
    "image_url": "image",
    "video_reference": "video",
    "video_url": "video",
}
"""The fields that name what a video begins with, and the medium, where the name says it."""

_VIDEO_SUFFIXES = {".mp4", ".mov", ".webm", ".mkv", ".avi", ".ts"}

_OWN = {"model", "seconds", "size", "width", "height", "fps", *_REFERENCES}
"""The fields that the endpoints do not have, or that are given to them under one name."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a video begins with: a URL, or the id of a file, and which medium it is, if known.

    `field` is the one that says so.
    """

    field: str
    medium: str | None
    url: str = ""
    file_id: str | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A request in fal's words. `names` are those that its caller has for fal's fields."""

    endpoint: str
    body: bytes
    names: Mapping[str, str]
    seconds: float | None = None

    def in_its_words(self, error: InvalidInput) -> InvalidInput:
        """The endpoint's complaint, about the fields that the caller gave."""
        return InvalidInput(map(self._item, error.items))

    def _item(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        names = [self.names.get(str(part), part) for part in item["loc"]]
        message = item["msg"]
        if "seconds" in names:
            message = f"{self.seconds:g} seconds are {item['input']:,} frames. {message}"
        return {**item, "loc": names, "msg": message}


def given_by(asked: CreateVideo) -> Given | None:
    """What the video is to begin with; None if it is made of the prompt alone.

    Raises:
        InvalidInput: there are two, or none in a field that is given.
    """
    fields = [name for name in _REFERENCES if getattr(asked, name) is not None]
    if not fields:
        return None
    if len(fields) > 1:
        raise _invalid(fields[1], f"{' and '.join(fields)} are given. A video begins with one.")
    field, medium = fields[0], _REFERENCES[fields[0]]
    reference: str | VideoReference = getattr(asked, field)
    if isinstance(reference, str):
        return Given(field, medium, reference)
    given = reference.model_dump(exclude_none=True)
    if len(given) != 1:
        raise _invalid(field, "It has to have one of image_url, video_url and file_id.")
    if reference.file_id is not None:
        return Given(field, medium, file_id=reference.file_id)
    ((name, url),) = given.items()
    return Given(field, name.removesuffix("_url"), url)


def order_of(asked: CreateVideo, given: Given | None, limits: Limits) -> Order:
    """The request in the words of its endpoint, whose own fields are not checked yet.

    Raises:
        InvalidInput: there is no such endpoint, or it takes no such picture or video, or makes none
            of that size.
    """
    _check_size(asked, limits)
    medium = None if given is None else _medium_of(given, asked.model)
    endpoint = asked.model or f"{APP}/{medium or 'text'}-to-video"
    if endpoint not in limits.endpoints:
        known = ", ".join(limits.endpoints)
        raise _invalid("model", f"This server has no model {endpoint!r}; it has {known}.")
    body = asked.model_dump(exclude=_OWN, exclude_none=True)
    names = {"image_url": "input_reference", "video_url": "input_reference"}
    if given is not None and medium is not None:
        field = ENDPOINTS[endpoint].media_fields.get(medium)
        if field is None:
            raise _invalid(given.field, f"The model {endpoint!r} takes no {medium}.")
        body[field] = given.url
        names[field] = given.field
    if asked.seconds is not None and asked.num_frames is None:
        body["num_frames"] = round(FPS * min(asked.seconds, _LONGEST_S))
        names["num_frames"] = "seconds"
    return Order(endpoint, json.dumps(body).encode(), names, asked.seconds)


def _medium_of(given: Given, model: str | None) -> str:
    """Whether it is a picture or a video: by its field, by the model, or by its URL."""
    media = list(ENDPOINTS[model].media_fields) if model is not None and model in ENDPOINTS else []
    if given.medium is None and len(media) == 1:
        return media[0]
    return given.medium or _medium_of_url(given.url)


def _medium_of_url(url: str) -> str:
    scheme, _, rest = url.partition(":")
    if scheme.lower() == "data":
        return medium_of_type(rest.partition(",")[0])
    path = url.partition("#")[0].partition("?")[0]
    return "video" if PurePosixPath(path).suffix.lower() in _VIDEO_SUFFIXES else "image"


def medium_of_type(content_type: str) -> str:
    """Whether a file of this content type is a video, or a picture."""
    return "video" if content_type.lower().startswith("video/") else "image"


def _check_size(asked: CreateVideo, limits: Limits) -> None:
    made = {
        "size": f"{limits.width}x{limits.height}",
        "width": limits.width,
        "height": limits.height,
        "fps": FPS,
    }
    for field, value in made.items():
        wanted = getattr(asked, field)
        if wanted not in (None, value):
            raise _invalid(
                field,
                f"It is {wanted!r}; videos have {limits.width}x{limits.height} pixels and {FPS} "
                f"frames a second here, so it can be {value!r} or be left out.",
            )


def _invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput([error_item(("body", field), message, "value_error", None)])
