"""Errors as OpenAI's clients read them: made of the bodies that fal's clients get."""

from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict

PATH = "/v1/videos"

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorView(TypedDict):
    """What is wrong: a sentence, its kind, and the field or the code, where there is one."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(TypedDict):
    """The body of an error."""

    error: ErrorView


def is_for_openai(path: str) -> bool:
    """Whether the path of a request is one of OpenAI's API."""
    return path == PATH or path.startswith(f"{PATH}/")


def openai_error(status: int, body: Mapping[str, Any]) -> tuple[int, OpenAIError]:
    """The status and body of an error that fal's clients would get with these.

    Input that cannot be used is a 400 here. The code is fal's type of the error.
    """
    detail, code = body["detail"], body.get("error_type")
    if isinstance(detail, str):
        return status, _error(status, detail, None, code)
    first = detail[0]
    message = "; ".join(item["msg"] for item in detail)
    # `body` or `query`, the name of the field, and perhaps what is within it.
    name = next(iter(first["loc"][1:]), None)
    param = name if isinstance(name, str) else None
    status = 400 if status == 422 else status
    return status, _error(status, message, param, first["type"])


def _error(status: int, message: str, param: str | None, code: str | None) -> OpenAIError:
    other = "server_error" if status >= 500 else "invalid_request_error"
    kind = _TYPES.get(status, other)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
