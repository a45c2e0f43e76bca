"""Which service a request is for, and how URLs of each service are written.

Run and queue take the same paths: at fal the host tells them apart, on this server the host, if it
is one of fal's, or else a prefix. A path without a prefix is a run.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote_to_bytes, urlsplit

_HOST = re.compile(r"(?:[a-z0-9-]+(?:\.[a-z0-9-]+)*|\[[0-9a-f:.]+\])\.?(?::[0-9]{1,5})?")


class Service(StrEnum):
    """What a request can be for; the value is the path prefix that selects it."""

    RUN = "run"
    QUEUE = "queue"
    FILES = "files"
    HEALTH = "health"


FAL_HOSTS = {"fal.run": Service.RUN, "queue.fal.run": Service.QUEUE}
_FAL_HOST_OF = {service: host for host, service in FAL_HOSTS.items()}
_PREFIXES = {service.value: service for service in Service}
_ON_EVERY_HOST = (Service.FILES, Service.HEALTH)


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
    by_host = FAL_HOSTS.get(_name(host))
    by_prefix = _PREFIXES.get(segments[0]) if segments else None
    if by_prefix is not None and (by_host is None or by_prefix in _ON_EVERY_HOST):
        return Address(by_prefix, _join(segments[1:]))
    return Address(by_host or Service.RUN, _join(segments))


def is_well_formed(host: str) -> bool:
    """Whether a Host header can be one: a name or an address, and perhaps a port."""
    return _HOST.fullmatch(host.lower()) is not None


def url_for(base_url: str, service: Service, path: str) -> str:
    """The URL under which callers of `base_url` reach a path of a service.

    `base_url` is scheme and host as the caller used them, or the configured public URL. `path`
    is decoded and absolute.
    """
    parts = urlsplit(base_url)
    name = _name(parts.netloc)
    if name in FAL_HOSTS and service in _FAL_HOST_OF:
        port = "" if parts.port is None else f":{parts.port}"
        return f"{parts.scheme}://{_FAL_HOST_OF[service]}{port}{quote(path)}"
    return f"{base_url}/{service.value}{quote(path)}"


def file_id(base_url: str, url: str) -> str | None:
    """The id of the file that the URL names, None if it is not one of our own files."""
    prefix = url_for(base_url, Service.FILES, "/")
    if not url.startswith(prefix):
        return None
    segments = _segments("/" + url.removeprefix(prefix))
    return segments[0] if segments is not None and len(segments) == 2 else None


def _segments(raw_path: str) -> list[str] | None:
    if raw_path == "/":
        return []
    if not raw_path.startswith("/"):
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


def _name(host: str) -> str:
    """The host without its port and trailing dot, in lower case."""
    return re.sub(r":[0-9]*$", "", host.lower()).removesuffix(".")
