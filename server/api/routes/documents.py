"""What the server says about itself: fal's documents of an endpoint, its own, and a page of them.

None asks for a key: what is described is no secret, and tools read it before they have one.
"""

from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse

from server.api.dependencies import BaseUrlDep, EndpointDep, ServicesDep
from server.api.openapi.document import openapi_document
from server.api.openapi.llms import llms_text
from server.api.openapi.queue import queue_document
from server.errors import BadRequest, UnknownPath
from server.fal.endpoints import ENDPOINTS
from server.fal.urls import Service, is_fal_host, url_for

router = APIRouter(prefix=f"/{Service.DISCOVERY.value}")

_QUEUE_DOCUMENT = "/api/openapi/queue/openapi.json"
_OWN_DOCUMENT = "/openapi.json"

_ASSETS = files("fastapi_swagger.resources")
_SCRIPT, _STYLE, _ICON = "swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"
_MEDIA_TYPES = {_SCRIPT: "text/javascript", _STYLE: "text/css", _ICON: "image/png"}

_DOCS_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Lets the page load nothing but from this server."""


@router.get(_QUEUE_DOCUMENT)
async def queue_openapi(
    services: ServicesDep, base_url: BaseUrlDep, endpoint_id: str = ""
) -> Response:
    """An endpoint's queue as fal describes it."""
    if endpoint_id not in ENDPOINTS:
        known = ", ".join(ENDPOINTS)
        raise BadRequest(f"Say which endpoint, with ?endpoint_id=…; this server has {known}.")
    return JSONResponse(queue_document(endpoint_id, base_url, services.limits))


@router.get("/models/{endpoint:path}/llms.txt")
async def endpoint_llms(
    endpoint: EndpointDep, services: ServicesDep, base_url: BaseUrlDep
) -> Response:
    """An endpoint's page for language models."""
    return PlainTextResponse(llms_text(endpoint, base_url, services.limits))


@router.get("/llms.txt")
async def llms(services: ServicesDep, base_url: BaseUrlDep) -> Response:
    """The pages of all endpoints."""
    pages = [llms_text(endpoint, base_url, services.limits) for endpoint in ENDPOINTS]
    return PlainTextResponse("\n\n".join(pages))


@router.get(_OWN_DOCUMENT)
async def openapi(services: ServicesDep, base_url: BaseUrlDep) -> Response:
    """This server's HTTP API. Its paths have prefixes, which fal's own hosts have not."""
    if is_fal_host(base_url):
        raise UnknownPath(_OWN_DOCUMENT)
    settings = services.settings
    document = openapi_document(
        base_url,
        services.limits,
        needs_key=settings.needs_key,
        files_auth=settings.files_auth,
    )
    return JSONResponse(document)


@router.get("/docs")
async def docs(base_url: BaseUrlDep) -> Response:
    """A page on which the API can be read and tried."""
    document = _OWN_DOCUMENT
    if is_fal_host(base_url):
        document = f"{_QUEUE_DOCUMENT}?endpoint_id={next(iter(ENDPOINTS))}"
    page = get_swagger_ui_html(
        openapi_url=_path_of(base_url, "") + document,
        title="cosmos-serve",
        swagger_js_url=_path_of(base_url, f"/docs/{_SCRIPT}"),
        swagger_css_url=_path_of(base_url, f"/docs/{_STYLE}"),
        swagger_favicon_url=_path_of(base_url, f"/docs/{_ICON}"),
        # Without this the page asks a validator of Swagger's about a server with a public name.
        swagger_ui_parameters={"validatorUrl": None},
    )
    page.headers["content-security-policy"] = _DOCS_POLICY
    return page


@router.get("/docs/{name}")
async def docs_asset(name: str) -> Response:
    """A part of the page."""
    if name not in _MEDIA_TYPES:
        raise UnknownPath(f"/docs/{name}")
    return FileResponse(Path(str(_ASSETS / name)), media_type=_MEDIA_TYPES[name])


def _path_of(base_url: str, path: str) -> str:
    """The path under which a document is reached, whatever scheme and host a proxy speaks."""
    return urlsplit(url_for(base_url, Service.DISCOVERY, path)).path
