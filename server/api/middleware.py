"""The outermost layer of the app: who may come in, by which name, and for which service."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.cors import cors_headers, is_preflight, preflight_headers
from server.api.forwarded import PublicOrigin, client_of, forwarded_header, origin_of_request
from server.api.proxy import METHODS, TARGET_HEADER, target_of
from server.errors import Forbidden, MethodNotAllowed, MisdirectedRequest, RequestError, UnknownPath
from server.fal.invalid_input import truncated
from server.fal.urls import FAL_HOSTS, Address, Service, resolve
from server.hosts import HostRule, name_of, read_origin
from server.outbound.addresses import Network
from server.settings import Settings

REQUEST_ID = "x-fal-request-id"
PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))

_log = structlog.get_logger("server")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRules:
    """Which requests are let in, before anybody asks for a key.

    A server that needs no key serves its own machine only: no name but a loopback one or fal's,
    no page of another origin, and nothing whose headers say that it came through a proxy.
    """

    hosts: HostRule
    origins: frozenset[str]
    """Those whose pages may read our answers."""

    own_origins: frozenset[str]
    trusted_proxies: tuple[Network, ...]
    public_url: str | None
    needs_key: bool

    @classmethod
    def from_settings(cls, settings: Settings, machine_name: str) -> Self:
        """The rules that follow from the settings, on the machine of that name."""
        public = None if settings.public_url is None else PublicOrigin.from_url(settings.public_url)
        names = {*FAL_HOSTS, *settings.allowed_hosts}
        if public is not None:
            names.add(name_of(public.host))
        if settings.needs_key:
            names |= {machine_name.lower(), settings.host.lower()}
        hosts = HostRule(
            names=frozenset(names),
            addresses=settings.needs_key,
            # The URLs of an answer go back to somebody who proved a key.
            every_name=settings.needs_key and settings.public_url is None,
        )
        return cls(
            hosts=hosts,
            origins=frozenset(settings.cors_origins),
            own_origins=frozenset() if public is None else frozenset({public.origin}),
            trusted_proxies=settings.forwarded_allow_ips,
            public_url=settings.public_url,
            needs_key=settings.needs_key,
        )

    def check(self, arrival: PublicOrigin, headers: Headers) -> None:
        """Refuse who must not come in.

        Raises:
            MisdirectedRequest: the Host is not a name of this server.
            Forbidden: the request is not of this machine alone, and we ask for no key.
        """
        if not self.hosts.allows(arrival.host):
            raise MisdirectedRequest(
                f"This server is not known as {name_of(arrival.host)!r}. If it should be, add "
                "the name to COSMOS_ALLOWED_HOSTS."
            )
        if self.needs_key:
            return
        forwarded = forwarded_header(headers)
        if forwarded is not None:
            raise Forbidden(
                f"The header {forwarded!r} says that this request came through a proxy. This "
                "server asks for no key, so it serves its own machine only: set COSMOS_AUTH=on."
            )
        origin = headers.get("origin", arrival.origin)
        if origin not in {arrival.origin, *self.own_origins, *self.origins}:
            raise Forbidden(
                f"Pages of {truncated(origin)!r} may not use this server. {_advice(origin)}"
            )


class _KeyEnded(Exception):
    """The key of a request ended while its answer was being sent."""


async def _always() -> bool:
    return True


class EntryMiddleware:
    """Rewrites each path to `/<service>/<path>`, and marks every answer.

    It leaves in `request.state` the `base_url` that every URL in the answer begins with, and the
    `request_id`: a new one, which a route replaces by the job's. An answer in pieces is cut off
    once `may_go_on` says no: what finds out who calls replaces that, too.
    """

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        self._app = app
        self._rules = rules

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

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(response_headers(state))
            elif message.get("more_body") and not await state["may_go_on"]():
                raise _KeyEnded
            await send(message)

        try:
            await self._enter(scope)(scope, receive, send_marked)
        except* _KeyEnded:
            # The answer is not complete, so the connection is closed.
            _log.info("An answer was cut off: its key has ended", request_id=state["request_id"])

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
            _set_path(scope, address)
        except RequestError as error:
            return JSONResponse(error.body, error.status, headers=error.headers)
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


def response_headers(state: Mapping[str, Any]) -> dict[str, str]:
    """The headers that every answer has, by the state of its request."""
    return {REQUEST_ID: state["request_id"], **state["cors_headers"]}


def _advice(origin: str) -> str:
    """What to do about an origin that is refused."""
    try:
        can_be_listed = read_origin(origin) == origin
    except ValueError:
        # "null" is the origin of a file, of a frame in a sandbox, and of what was redirected.
        can_be_listed = False
    if can_be_listed:
        return "If they should, add the origin to COSMOS_CORS_ORIGINS."
    return "That is no site's origin, so no setting allows it: serve the page from a site."


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
    scope["path"] = f"/{address.service.value}{address.path}"
    scope["raw_path"] = quote(scope["path"]).encode()
