"""The outermost layer of the app: it finds the service that a request is for, and numbers it."""

import uuid

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.addressing import resolve
from server.errors import BadRequest, RequestError, UnknownPath, answer
from server.hosts import is_well_formed

REQUEST_ID = "x-fal-request-id"


class Front:
    """Rewrites each path to `/<service>/<path>`, and gives every answer an `x-fal-request-id`.

    The id is a new one, or the job's where a route puts that into `request.state.request_id`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = str(uuid.uuid4())

        async def send_numbered(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = state["request_id"]
            await send(message)

        refusal = _address(scope)
        app = self._app if refusal is None else _response(refusal)
        await app(scope, receive, send_numbered)


def _address(scope: Scope) -> RequestError | None:
    """Put the service into the scope's path; the error, if the request is for none."""
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    if not is_well_formed(host):
        return BadRequest(f"The Host header {host!r} is not a host's name.")
    raw_path: str = scope["raw_path"].decode("latin-1")
    address = resolve(host, raw_path)
    if address is None:
        return UnknownPath(raw_path)
    scope["path"] = f"/{address.service.value}{address.path}"
    scope["raw_path"] = scope["path"].encode()
    return None


def _response(error: RequestError) -> JSONResponse:
    given = answer(error)
    return JSONResponse(given.body, given.status, headers=dict(given.headers))
