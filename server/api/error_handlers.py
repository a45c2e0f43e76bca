"""What becomes a response of an error: the caller's, a shortage, or one that was not foreseen."""

from fastapi import FastAPI, Request, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from server.api.error_responses import error_response
from server.api.middleware import response_headers
from server.disk import shortage_of
from server.errors import InternalError, MethodNotAllowed, RequestError, UnknownPath
from server.fal.endpoints import ENDPOINTS
from server.fal.urls import Service
from server.openai.errors import is_for_openai


def add_error_handlers(app: FastAPI) -> None:
    """Let the app answer every error in fal's forms."""
    app.add_exception_handler(RequestError, _answer)
    app.add_exception_handler(HTTPException, _answer_router)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    for kind in (OSError, MemoryError, RuntimeError, SQLAlchemyError):
        app.add_exception_handler(kind, _answer_shortage)
    app.add_exception_handler(Exception, _answer)


async def _answer(request: Request, error: Exception) -> Response:
    answer = error if isinstance(error, RequestError) else InternalError()
    # The answer to an unforeseen error does not pass through EntryMiddleware.
    headers = {**response_headers(request.scope["state"]), **answer.headers}
    return error_response(request.scope["path"], answer.status, answer.body, headers)


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
    whole = request.scope["path"]
    return await _answer(request, UnknownPath(whole if is_for_openai(whole) else f"/{path}"))
