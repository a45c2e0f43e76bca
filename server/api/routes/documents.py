"""What the server says about itself: fal's documents of an endpoint, its own, and a page of them.

None asks for a key: what is described is no secret, and tools read it before they have one.
"""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, PlainTextResponse

from server.api.dependencies import BaseUrlDep, EndpointDep, ServicesDep
from server.api.openapi.document import openapi_document
from server.api.openapi.llms import llms_text
from server.api.openapi.parts import query, text
from server.api.openapi.queue import queue_document
from server.errors import BadRequest, UnknownPath
from server.fal.urls import Service, is_fal_host, path_for

router = APIRouter(prefix=f"/{Service.DISCOVERY.value}", tags=[Service.DISCOVERY])

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


@router.get(
    _QUEUE_DOCUMENT,
    name="queue_document",
    response_description="The document.",
    openapi_extra={"parameters": [query("endpoint_id", "The endpoint's id.", required=True)]},
)
async def queue_openapi(
    services: ServicesDep,
    base_url: BaseUrlDep,
    endpoint_id: Annotated[str, Query(include_in_schema=False)] = "",
) -> dict[str, Any]:
    """An endpoint's queue, as fal describes it."""
    if endpoint_id not in services.limits.endpoints:
        known = ", ".join(services.limits.endpoints)
        raise BadRequest(f"Say which endpoint, with ?endpoint_id=…; this server has {known}.")
    return queue_document(endpoint_id, base_url, services.limits)


@router.get(
    "/models/{endpoint:path}/llms.txt",
    name="llms",
    response_class=Response,
    responses={200: text("The page.")},
)
async def endpoint_llms(
    endpoint: EndpointDep, services: ServicesDep, base_url: BaseUrlDep
) -> Response:
    """The endpoint, for language models."""
    return PlainTextResponse(llms_text(endpoint, base_url, services.limits))


@router.get("/llms.txt", response_class=Response, responses={200: text("The page.")})
async def llms(services: ServicesDep, base_url: BaseUrlDep) -> Response:
    """The endpoints, for language models."""
    pages = [
        llms_text(endpoint, base_url, services.limits) for endpoint in services.limits.endpoints
    ]
    return PlainTextResponse("\n\n".join(pages))


@router.get(_OWN_DOCUMENT, name="document", response_description="The document.")
async def own_openapi(
    request: Request, services: ServicesDep, base_url: BaseUrlDep
) -> dict[str, Any]:
    """This document."""
    # Its paths have prefixes, which fal's own hosts have not.
    if is_fal_host(base_url):
        raise UnknownPath(_OWN_DOCUMENT)
    app: FastAPI = request.app
    if app.openapi_schema is None:
        app.openapi_schema = openapi_document(
            app.routes, services.limits, needs_key=services.settings.needs_key
        )
    return app.openapi_schema | {"servers": [{"url": base_url}]}


@router.get("/docs", response_class=Response, responses={200: text("The page.", "text/html")})
async def docs(services: ServicesDep, base_url: BaseUrlDep) -> Response:
    """A page on which to try the API."""
    document = _OWN_DOCUMENT
    if is_fal_host(base_url):
        document = f"{_QUEUE_DOCUMENT}?endpoint_id={services.limits.endpoints[0]}"
    page = get_swagger_ui_html(
        openapi_url=path_for(base_url, Service.DISCOVERY, "") + document,
        title="cosmos-serve",
        swagger_js_url=path_for(base_url, Service.DISCOVERY, f"/docs/{_SCRIPT}"),
        swagger_css_url=path_for(base_url, Service.DISCOVERY, f"/docs/{_STYLE}"),
        swagger_favicon_url=path_for(base_url, Service.DISCOVERY, f"/docs/{_ICON}"),
        # Without this the page asks a validator of Swagger's about a server with a public name.
        swagger_ui_parameters={"validatorUrl": None},
    )
    page.headers["content-security-policy"] = _DOCS_POLICY
    return page


@router.get("/docs/{name}", include_in_schema=False)
async def docs_asset(name: str) -> Response:
    """A part of the page."""
    if name not in _MEDIA_TYPES:
        raise UnknownPath(f"/docs/{name}")
    return FileResponse(Path(str(_ASSETS / name)), media_type=_MEDIA_TYPES[name])
