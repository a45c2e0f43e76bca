"""Which service a request is for, and how URLs of each service are written.

Run and queue take the same paths: at fal the host tells them apart, on this server the host, if it
is one of fal's, or else a prefix. An endpoint's path without a prefix is a run; on a host whose
name begins with `queue.`, where fal's clients look for the queue by themselves, it is the queue's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote_to_bytes, urlsplit

from server.fal.endpoints import ENDPOINTS, app_of
from server.hosts import name_of


class Service(StrEnum):
    """What a request can be for; the value begins the path of its routes."""

    RUN = "run"
    QUEUE = "queue"
    REST = "rest"
    """Tokens, the beginning of uploads, and the keys that sign webhooks."""
    FILES = "files"
    HEALTH = "health"
    MCP = "mcp"
    """The Model Context Protocol, which is one path and no service of fal's."""
    ADMIN = "admin"
    """What operators tell the server."""
    VIDEOS = "v1/videos"
    """OpenAI's videos API, see `server.openai`."""
    DISCOVERY = "discovery"
    """Documents about the server, and the page for people; they have paths of their own, and no
    prefix."""
    V1 = "v1"
    """fal's platform API: models, prices, requests, usage, keys. The prefix is fal's own."""
    PROXY = "proxy"
    """Requests whose address is in a header, see `server.api.proxy`."""


FAL_HOSTS: Mapping[str, Service] = {
    "fal.run": Service.RUN,
    "ws.fal.run": Service.RUN,
    "queue.fal.run": Service.QUEUE,
    # Where fal's Python client turns when it cannot connect to the two above.
    "falrun.com": Service.RUN,
    "queue.falrun.com": Service.QUEUE,
    "rest.fal.ai": Service.REST,
    "rest.alpha.fal.ai": Service.REST,
    "v3.fal.media": Service.FILES,
    "v3b.fal.media": Service.FILES,
    "fal.ai": Service.DISCOVERY,
    "api.fal.ai": Service.V1,
}
_HOST_OF: Mapping[Service, str] = {
    Service.RUN: "fal.run",
    Service.QUEUE: "queue.fal.run",
    Service.REST: "rest.fal.ai",
    Service.FILES: "v3.fal.media",
    Service.DISCOVERY: "fal.ai",
    Service.V1: "api.fal.ai",
}
_HAVE_PREFIX = frozenset({Service.FILES, Service.V1})
"""Services whose paths begin with their name on fal's hosts, too."""

_BACKUP_HOST_OF = {**_HOST_OF, Service.RUN: "falrun.com", Service.QUEUE: "queue.falrun.com"}

_PREFIXES = {
    service.value: service
    for service in Service
    if service not in (Service.DISCOVERY, Service.PROXY)
}
_DOCUMENTS = frozenset({"api", "docs", "llms.txt", "metrics", "models", "openapi.json", "page"})
"""The first segments of the paths of documents."""

_PROXY_PATH = ["api", "fal", "proxy"]
_APPS = frozenset(app_of(endpoint) for endpoint in ENDPOINTS)


@dataclass(frozen=True, slots=True)
class Address:
    """A service, and the path within it: decoded, absolute, without a slash at its end."""

    service: Service
    path: str


def resolve(host: str, raw_path: str) -> Address | None:
    """The service and path that a request is for; None if the path is one that nothing has.

    `host` is the Host header and `raw_path` the path as it was sent, percent-encoding included.
    """
    segments = _segments(raw_path)
    if segments is None:
        return None
    name = name_of(host)
    if not segments:
        # The page for people, whose requests go to several services of one host.
        return None if name in FAL_HOSTS else Address(Service.DISCOVERY, "/")
    if segments[0] == Service.HEALTH.value:
        return Address(Service.HEALTH, _join(segments[1:]))
    if name in FAL_HOSTS:
        return _on_fal_host(FAL_HOSTS[name], segments)
    return _on_own_host(name, segments)


def _on_fal_host(service: Service, segments: list[str]) -> Address | None:
    if service not in _HAVE_PREFIX:
        return Address(service, _join(segments))
    return Address(service, _join(segments[1:])) if segments[0] == service.value else None


def _on_own_host(name: str, segments: list[str]) -> Address | None:
    first = segments[0]
    if segments[:2] == ["v1", "videos"]:
        return Address(Service.VIDEOS, _join(segments[2:]))
    if first in _PREFIXES:
        return Address(_PREFIXES[first], _join(segments[1:]))
    if segments == _PROXY_PATH:
        return Address(Service.PROXY, "/")
    if first in _DOCUMENTS:
        return Address(Service.DISCOVERY, _join(segments))
    if first == ".well-known":
        return Address(Service.REST, _join(segments))
    if "/".join(segments[:2]) in _APPS:
        by_name = Service.QUEUE if name.startswith("queue.") else Service.RUN
        return Address(by_name, _join(segments))
    return None


def url_for(base_url: str, service: Service, path: str) -> str:
    """The URL under which callers of `base_url` reach a path of a service.

    `base_url` is scheme, host and prefix as the caller used them, or the configured public URL.
    `path` is decoded and absolute.
    """
    parts = urlsplit(base_url)
    name = name_of(parts.netloc)
    prefix = "" if service is Service.DISCOVERY else f"/{service.value}"
    hosts = _BACKUP_HOST_OF if name.endswith("falrun.com") else _HOST_OF
    if name in FAL_HOSTS and service in hosts:
        port = "" if parts.port is None else f":{parts.port}"
        prefix = prefix if service in _HAVE_PREFIX else ""
        base_url = f"{parts.scheme}://{hosts[service]}{port}"
    return f"{base_url}{prefix}{quote(path)}"


def path_for(base_url: str, service: Service, path: str) -> str:
    """The path of `url_for`: what a page of this server asks for, whatever host it came from."""
    return urlsplit(url_for(base_url, service, path)).path


def is_fal_host(base_url: str) -> bool:
    """Whether callers of `base_url` know this server by a name of fal's."""
    return name_of(urlsplit(base_url).netloc) in FAL_HOSTS


def _segments(raw_path: str) -> list[str] | None:
    if raw_path == "/":
        return []
    if not raw_path.startswith("/") or not raw_path.isascii():
        return None
    segments = [_decode(segment) for segment in raw_path[1:].removesuffix("/").split("/")]
    known = [segment for segment in segments if segment is not None]
    return known if len(known) == len(segments) else None


def _decode(segment: str) -> str | None:
    try:
        text = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        return None
    if text in ("", ".", "..") or "/" in text or "\\" in text or not text.isprintable():
        return None
    return text


def _join(segments: list[str]) -> str:
    return "/" + "/".join(segments)
