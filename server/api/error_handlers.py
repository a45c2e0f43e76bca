"""What becomes a response of an error: the caller's, a shortage, or one that was not foreseen."""

import time

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from server.api.error_responses import error_response
from server.api.middleware import response_headers
from server.api.platform.errors import bad_parameters
from server.disk import shortage_of
from server.errors import InternalError, MethodNotAllowed, RequestError, UnknownPath
from server.fal.endpoints import ENDPOINTS
from server.fal.urls import Service


def add_error_handlers(app: FastAPI) -> None:
    """Let the app answer every error in fal's forms: those of the platform API have their own."""
    app.add_exception_handler(RequestError, _answer)
    app.add_exception_handler(RequestValidationError, _answer_parameters)
    app.add_exception_handler(HTTPException, _answer_router)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    for kind in (OSError, MemoryError, RuntimeError, SQLAlchemyError):
        app.add_exception_handler(kind, _answer_shortage)
    app.add_exception_handler(Exception, _answer_unforeseen)


async def _answer(request: Request, error: Exception) -> Response:
    answer = error if isinstance(error, RequestError) else InternalError()
    state = request.scope["state"]
    headers = {**response_headers(state), **answer.headers}
    return error_response(request.scope["path"], answer, state["request_id"], headers)


async def _answer_parameters(request: Request, error: Exception) -> Response:
    """A path or query that the platform API cannot use: other routes take any text."""
    assert isinstance(error, RequestValidationError)
    return await _answer(request, bad_parameters(error))


async def _answer_unforeseen(request: Request, error: Exception) -> Response:
    """An error of the server. This answer does not pass through EntryMiddleware."""
    state = request.scope["state"]
    seconds = time.monotonic() - state["began"]
    request.app.state.services.metrics.answered(state["service"], InternalError.status, seconds)
    return await _answer(request, error)


async def _answer_shortage(request: Request, error: Exception) -> Response:
    """The machine is short of something for a while: that is no error of the server either."""
    shortage = shortage_of(error)
    if shortage is None:
        raise error
    return await _answer(request, shortage)


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    """The caller left in the middle of the request: that is no error of the server."""
    return Response(status_code=499)


async def _answer_router(request: Request, error: Exception) -> Response:
    """The router's own 404 and 405, in fal's words."""
    assert isinstance(error, HTTPException)
    service, _, path = request.scope["path"].lstrip("/").partition("/")
    # Any path at all matches the routes of these two.
    takes_any = service in (Service.RUN, Service.QUEUE)
    is_known = not takes_any or path in ENDPOINTS or "/requests/" in path
    if error.status_code == 405 and is_known:
        return await _answer(request, MethodNotAllowed((error.headers or {})["Allow"]))
    # The platform API's prefix is fal's own, and part of the path.
    own_prefix = f"/{service}" if service == Service.V1 else ""
    return await _answer(request, UnknownPath(f"{own_prefix}/{path}"))
