"""The outermost layer of the app: which service a request is for, and what every answer has."""

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.access import AccessRules
from server.api.cors import cors_headers, is_preflight, preflight_headers
from server.api.error_responses import error_response
from server.api.forwarded import client_of, origin_of_request
from server.api.proxy import METHODS, TARGET_HEADER, target_of
from server.api.session_cookie import session_of
from server.errors import Forbidden, MethodNotAllowed, RequestError, UnknownPath
from server.fal.invalid_input import truncated
from server.fal.urls import Address, Service, resolve

REQUEST_ID = "x-fal-request-id"
PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))

Answered = Callable[[str, int, float], None]
"""Told the service that answers, the HTTP status, and the seconds that it took to begin."""

_log = structlog.get_logger("server")


class CutOff(Exception):
    """An answer that has begun is not completed; the message is the end of a sentence on why."""


async def _always() -> bool:
    return True


class EntryMiddleware:
    """Rewrites each path to `/<service>/<path>`, and marks every answer.

    It leaves in `request.state` the `base_url` that every URL in the answer begins with, and the
    `request_id`: a new one, which a route replaces by the job's. `session` is the value of the
    cookie, where it counts. An answer in pieces is cut off once `may_go_on` says no: what finds out
    who calls replaces that, too. What makes the pieces cuts it off by `CutOff`. `answered` is told
    of each answer that begins.
    """

    def __init__(self, app: ASGIApp, rules: AccessRules, answered: Answered) -> None:
        self._app = app
        self._rules = rules
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            # Before it is accepted, which the caller sees as a 403.
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = str(uuid.uuid4())
        state["cors_headers"] = cors_headers(Headers(scope=scope), self._rules.origins)
        state["may_go_on"] = _always
        state["session"] = None
        state["service"] = "none"
        state["began"] = time.monotonic()

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answered(
                    state["service"], message["status"], time.monotonic() - state["began"]
                )
                MutableHeaders(scope=message).update(response_headers(state))
            elif message.get("more_body") and not await state["may_go_on"]():
                raise CutOff("its key or session has ended")
            await send(message)

        try:
            await self._enter(scope)(scope, receive, send_marked)
        except* CutOff as cut_off:
            # The answer is not complete, so the connection is closed.
            why = str(_first_of(cut_off))
            _log.info("An answer was cut off", why=why, request_id=state["request_id"])

    def _enter(self, scope: Scope) -> ASGIApp:
        """Address the request; what is to answer it."""
        headers = Headers(scope=scope)
        rules = self._rules
        # Bytes that a URL should not hold, and that Starlette would fail to decode.
        scope["query_string"] = quote(scope["query_string"], safe=PRINTABLE).encode()
        try:
            arrival = origin_of_request(scope, rules.trusted_proxies)
            rules.check(arrival, headers)
            if headers.get("upgrade", "").lower() == "websocket":
                raise Forbidden(
                    "This server does not speak WebSocket. Its streams are at …/stream."
                )
            if is_preflight(scope["method"], headers) and headers.get("origin") in rules.origins:
                return Response(status_code=204, headers=preflight_headers())
            scope["client"] = client_of(scope, rules.trusted_proxies)
            scope["state"]["base_url"] = rules.public_url or arrival.base_url
            address = _address(scope, arrival.host)
            if address.service is Service.FILES and _take_in_appended(scope):
                address = _address(scope, arrival.host)
            if address.service is Service.PROXY:
                return self._through_proxy(scope, headers)
            if address.service is Service.MCP:
                # Its specification wants this of every server, with a key or without.
                rules.check_origin(arrival, headers)
            scope["state"]["session"] = session_of(scope, arrival.host, address.service)
            _set_path(scope, address)
        except RequestError as error:
            return error_response(scope["path"], error, scope["state"]["request_id"], error.headers)
        return self._app

    def _through_proxy(self, scope: Scope, headers: Headers) -> ASGIApp:
        """Give the request the address of its target, under the base URL that it came by."""
        if scope["method"] not in METHODS:
            raise MethodNotAllowed(", ".join(METHODS))
        target = target_of(headers.getlist(TARGET_HEADER))
        if target is None:
            # Word for word what fal's own proxy says.
            return JSONResponse("Invalid request", 400)
        _set_path(scope, target.address)
        scope["query_string"] = target.query.encode()
        return self._app


def _first_of(group: BaseExceptionGroup[CutOff]) -> BaseException:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def response_headers(state: Mapping[str, Any]) -> dict[str, str]:
    """The headers that every answer has, by the state of its request."""
    return {REQUEST_ID: state["request_id"], **state["cors_headers"]}


def _address(scope: Scope, host: str) -> Address:
    raw_path = scope["raw_path"].decode("latin-1")
    address = resolve(host, raw_path)
    if address is None:
        raise UnknownPath(truncated(raw_path))
    return address


def _take_in_appended(scope: Scope) -> bool:
    """Whether the query ended in what belongs to the path, where it is now.

    fal's Python client appends the path of a part to the URL of its file, which may be signed.
    """
    query, appended, rest = scope["query_string"].partition(b"/multipart/")
    scope["query_string"], scope["raw_path"] = query, scope["raw_path"] + appended + rest
    return bool(appended)


def _set_path(scope: Scope, address: Address) -> None:
    scope["state"]["service"] = address.service.value
    scope["path"] = f"/{address.service.value}{address.path}".rstrip("/")
    scope["raw_path"] = quote(scope["path"]).encode()
