"""Errors in the shape of the API that a request is for: fal's, or OpenAI's."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from server.openai.errors import is_for_openai, openai_error


def error_response(
    path: str, status: int, body: Mapping[str, Any], headers: Mapping[str, str]
) -> JSONResponse:
    """The answer to a request for `path`; the status and body are those that fal's clients get."""
    if is_for_openai(path):
        openai_status, openai_body = openai_error(status, body)
        return JSONResponse(openai_body, openai_status, headers=headers)
    return JSONResponse(body, status, headers=headers)
