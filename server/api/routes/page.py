"""The page for people, at `/`: the files of `server/api/page`, and what they must know of a server.

None asks for a key: what is served is in the package, and the page asks for a key itself.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from fastapi import APIRouter, Request, Response
from typing_extensions import TypedDict

from pipeline.spec import FPS
from server.api.dependencies import BaseUrlDep, ServicesDep
from server.api.routes.health import ReadinessView, readiness_view
from server.errors import UnknownPath
from server.fal.endpoints import ENDPOINTS
from server.fal.urls import Service, path_for

router = APIRouter(prefix=f"/{Service.DISCOVERY.value}", include_in_schema=False)

_FOLDER = Path(str(files("server.api") / "page"))
_INDEX = "index.html"
_MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; media-src 'self' blob: data:; base-uri 'self'; "
        "form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    # A browser asks each time, and is told that it has the newest: an upgrade shows at once.
    "cache-control": "no-cache",
}
"""Let the page load nothing but from this server, and run nothing but its files."""


@dataclass(frozen=True, slots=True)
class _PageFile:
    body: bytes
    media_type: str


class EndpointInfo(TypedDict):
    """An endpoint as a choice on the page; `media` maps the field of a file to what it holds."""

    id: str
    title: str
    summary: str
    media: dict[str, str]


class ServerInfo(TypedDict):
    """What the page has to know before it asks for anything; sizes are in pixels."""

    endpoints: list[EndpointInfo]
    width: int
    height: int
    fps: int
    needs_key: bool


@router.get("")
async def page(request: Request, base_url: BaseUrlDep) -> Response:
    """The page. Its `<base>` is the path under which the caller reaches this server."""
    file = _files()[_INDEX]
    base = escape(path_for(base_url, Service.DISCOVERY, "/"))
    text = Template(file.body.decode()).substitute(base=base)
    return _answer(request, _PageFile(text.encode(), file.media_type))


@router.get("/page/server.json")
async def server_info(services: ServicesDep) -> ServerInfo:
    """The endpoints, and what they make."""
    limits = services.limits
    return {
        "endpoints": [_endpoint_info(id_) for id_ in limits.endpoints],
        "width": limits.width,
        "height": limits.height,
        "fps": FPS,
        "needs_key": services.settings.needs_key,
    }


@router.get("/page/ready.json")
async def ready(services: ServicesDep) -> ReadinessView:
    """What `/health/ready` says, always with 200: browsers log a 503 as an error of the page."""
    return await readiness_view(services)


@router.get("/page/{path:path}")
async def page_file(path: str, request: Request) -> Response:
    """A part of the page."""
    file = _files().get(path)
    if file is None or path == _INDEX:
        raise UnknownPath(f"/page/{path}")
    return _answer(request, file)


def _endpoint_info(id_: str) -> EndpointInfo:
    endpoint = ENDPOINTS[id_]
    return {
        "id": id_,
        "title": endpoint.title,
        "summary": endpoint.summary,
        "media": {field: medium for medium, field in endpoint.media_fields.items()},
    }


def _answer(request: Request, file: _PageFile) -> Response:
    etag = f'"{hashlib.sha256(file.body).hexdigest()}"'
    headers = {**_HEADERS, "etag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(file.body, media_type=file.media_type, headers=headers)


@cache
def _files() -> Mapping[str, _PageFile]:
    """The files of the page by their paths, read once."""
    paths = [path for path in _FOLDER.rglob("*.*") if path.suffix in _MEDIA_TYPES]
    return {
        path.relative_to(_FOLDER).as_posix(): _PageFile(
            path.read_bytes(), _MEDIA_TYPES[path.suffix]
        )
        for path in paths
    }
