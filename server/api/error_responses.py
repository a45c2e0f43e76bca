"""Errors in the shape of the API that a request is for: fal's, its platform's, or OpenAI's."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from server.api.platform.errors import is_platform, platform_answer
from server.errors import RequestError
from server.openai.errors import is_for_openai, openai_error


def error_response(
    path: str, error: RequestError, request_id: str, headers: Mapping[str, str]
) -> JSONResponse:
    """The answer to a request for `path`, as it was sent or as it was addressed."""
    body: Mapping[str, Any]
    status, body = error.status, error.body
    if is_for_openai(path):
        status, body = openai_error(status, body)
    elif is_platform(path):
        status, body = platform_answer(error, request_id)
    return JSONResponse(body, status, headers=headers)
