"""How a request reached us: the scheme, host and prefix that its caller used.

A reverse proxy tells these by X-Forwarded-Proto, -Host and -Prefix, and the caller's address by
X-Forwarded-For. Anybody can write such headers, so they count only where they come from a trusted
address. Of several values the last one is taken: it is what the trusted proxy itself has added.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Self
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from server.errors import BadRequest
from server.fal.invalid_input import truncated
from server.hosts import DEFAULT_PORTS, is_well_formed, name_of
from server.outbound.addresses import Address, Network

_PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*")
_FORWARDED = re.compile(
    r"via|forwarded|cdn-loop|x-forwarded(-.*)?|x-original-forwarded-for"
    # X-Real-IP, True-Client-IP, X-Cluster-Client-IP, CF-Connecting-IP, X-Azure-ClientIP …
    r"|(.+-)?(real|client|connecting|remote|originating|(proxy)?user|socket)-?ip(v6)?"
    # X-Envoy-External-Address, CloudFront-Viewer-Address, X-Remote-Addr …
    r"|.+-(external|viewer|client|remote)-addr(ess)?"
)
"""Headers in which proxies and content networks say that they pass a request on, or for whom."""


@dataclass(frozen=True, slots=True)
class PublicOrigin:
    """What the caller's URL began with. `host` has no default port, and `prefix` no last slash."""

    scheme: str
    host: str
    prefix: str = ""

    @classmethod
    def from_url(cls, url: str) -> Self:
        """What a URL of this server begins with."""
        parts = urlsplit(url)
        return cls(parts.scheme, _without_default_port(parts.netloc, parts.scheme), parts.path)

    @property
    def origin(self) -> str:
        """As a browser writes it in an Origin header."""
        return f"{self.scheme}://{self.host}"

    @property
    def base_url(self) -> str:
        """What every URL begins with that the caller is given."""
        return f"{self.origin}{self.prefix}"


def origin_of_request(scope: Scope, trusted: Sequence[Network]) -> PublicOrigin:
    """How the request came, by the proxy's word if its address is trusted, else by its own.

    Raises:
        BadRequest: the scheme, host or prefix can be none.
    """
    headers = Headers(scope=scope)
    told = headers if trusted and _is_trusted(_peer(scope), trusted) else Headers()
    scheme = _last(told, "x-forwarded-proto", scope["scheme"]).lower()
    if scheme not in DEFAULT_PORTS:
        raise BadRequest(f"X-Forwarded-Proto is {truncated(scheme)!r}; expected http or https.")
    prefix = _last(told, "x-forwarded-prefix", "").rstrip("/")
    if not _PREFIX.fullmatch(prefix):
        raise BadRequest(f"X-Forwarded-Prefix is {truncated(prefix)!r}; expected a path: /videos.")
    # A request that has several Host headers has none that we could go by.
    host = _last(told, "x-forwarded-host", ", ".join(headers.getlist("host")))
    if not is_well_formed(host):
        raise BadRequest(f"The Host header {truncated(host)!r} is not a host's name.")
    return PublicOrigin(scheme, _without_default_port(host, scheme), prefix)


def client_of(scope: Scope, trusted: Sequence[Network]) -> tuple[str, int] | None:
    """The caller's address: the last one in X-Forwarded-For that is not a trusted proxy's."""
    client: tuple[str, int] | None = scope.get("client")
    if not trusted:
        return client
    address = _peer(scope)
    hops = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
    while hops and _is_trusted(address, trusted):
        before = _address(hops.pop().strip())
        if before is None:
            break
        address = before
    return client if address == _peer(scope) else (str(address), 0)


def forwarded_header(headers: Headers) -> str | None:
    """The name of a header that only a proxy adds, if the request has one."""
    return next((name for name in headers if _FORWARDED.fullmatch(name)), None)


def _peer(scope: Scope) -> Address | None:
    """The address at the other end of the connection; None on a Unix socket."""
    return None if scope.get("client") is None else _address(scope["client"][0])


def _address(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # An IPv4 peer of a socket that listens on :: is told so.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_trusted(address: Address | None, trusted: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in trusted)


def _last(headers: Headers, name: str, otherwise: str) -> str:
    values = headers.getlist(name)
    return values[-1].rpartition(",")[2].strip() if values else otherwise


def _without_default_port(host: str, scheme: str) -> str:
    name = name_of(host)
    port = re.search(r":([0-9]+)$", host)
    if port is None or port[1] == str(DEFAULT_PORTS[scheme]):
        return name
    return f"{name}:{port[1]}"
