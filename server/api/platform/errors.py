"""Errors in the shape that fal's platform API has, which OpenAI's clients can read, too."""

from typing import Any, Literal, NotRequired

from fastapi.exceptions import RequestValidationError
from typing_extensions import TypedDict

from server.api.openapi.parts import answer
from server.errors import BadRequest, RequestError
from server.fal.invalid_input import InvalidInput
from server.fal.urls import Service
from server.openai.errors import is_for_openai

ErrorType = Literal[
    "authorization_error",
    "validation_error",
    "not_found",
    "rate_limited",
    "server_error",
    "not_implemented",
]
_TYPES: dict[int, ErrorType] = {
    401: "authorization_error",
    403: "authorization_error",
    404: "not_found",
    405: "not_implemented",
    429: "rate_limited",
}


class PlatformErrorView(TypedDict):
    """What went wrong."""

    type: ErrorType
    message: str
    request_id: NotRequired[str]


class PlatformProblem(TypedDict):
    """Why a call was refused."""

    error: PlatformErrorView


REFUSED: dict[int | str, dict[str, Any]] = {
    "default": answer("Why it was refused.", PlatformProblem)
}


def is_platform(path: str) -> bool:
    """Whether errors of a path, as it was sent or as it was addressed, have this shape."""
    return path.startswith(f"/{Service.V1.value}/") and not is_for_openai(path)


def platform_answer(error: RequestError, request_id: str) -> tuple[int, dict[str, Any]]:
    """The status and the body of an error. Invalid input is a 400 here."""
    status, message = error.status, str(error)
    if isinstance(error, InvalidInput):
        status, message = (
            400,
            "; ".join(f"{_field(item['loc'])}{item['msg']}" for item in error.items),
        )
    kind = _TYPES.get(status, "server_error" if status >= 500 else "validation_error")
    return status, {"error": {"type": kind, "message": message, "request_id": request_id}}


def bad_parameters(error: RequestValidationError) -> BadRequest:
    """The error for a call whose path or query cannot be used."""
    problems = [f"{_field(each['loc'])}{each['msg']}" for each in error.errors()]
    return BadRequest("; ".join(problems))


def _field(loc: Any) -> str:
    """The name of what is wrong, without the place that it is in."""
    names = [part for part in loc[1:] if isinstance(part, str)]
    return f"{'.'.join(names)}: " if names else ""
