"""This server's own OpenAPI document, which FastAPI makes from the routes.

Added here is what depends on more than a route: whether the server asks for keys, and what the
endpoints take and give. A route that serves every endpoint is described once for each: its path,
its `operation_id` and what it refers to have `{endpoint}`, `{app}`, `{Endpoint}` or `{App}` in
them.
"""

import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from server.api.openapi.schemas import endpoint_schemas, schema_name
from server.fal.endpoints import APP, Limits, app_of
from server.fal.urls import Service

_DESCRIPTION = """\
The services of fal that its clients use, each under a prefix: `/run` is `fal.run`, `/queue` is
`queue.fal.run`, `/rest` is `rest.fal.ai`, `/files` is `v3.fal.media` and `/v1` is `api.fal.ai`,
but for `/v1/videos`, which is OpenAI's videos API. Every path also works with a slash at its end,
and every path of a request with the whole id of its endpoint. Any call may be refused, with a body
that says why.
"""
_REQUEST_ID = {
    "x-fal-request-id": {
        "description": "The request's id, for logs and support.",
        "schema": {"type": "string"},
    }
}


def openapi_document(
    routes: Sequence[BaseRoute], limits: Limits, *, needs_key: bool
) -> dict[str, Any]:
    """The document, but for its `servers`, which depend on who reads it."""
    document = get_openapi(
        title="cosmos-serve",
        version=importlib.metadata.version("cosmos-serve"),
        description=_DESCRIPTION,
        routes=routes,
    )
    schemas = document["components"]["schemas"]
    paths: dict[str, Any] = {}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete(operation, schemas, needs_key=needs_key)
        plain = path.removeprefix(f"/{Service.DISCOVERY.value}")
        paths |= _for_endpoints(plain, operations, limits.endpoints)
    for endpoint_id in limits.endpoints:
        schemas |= endpoint_schemas(endpoint_id, limits)
    return document | {"paths": paths}


def _complete(operation: dict[str, Any], schemas: dict[str, Any], *, needs_key: bool) -> None:
    """Add what holds for every operation, and lift the schemas that its body brings.

    The docstring of a route is its summary and, after an empty line, its description.
    """
    summary, _, operation["description"] = operation["description"].partition("\n\n")
    operation["summary"] = summary.removesuffix(".")
    for answer in operation["responses"].values():
        answer["headers"] = {**_REQUEST_ID, **answer.get("headers", {})}
    operation["security"] = operation.get("security", []) if needs_key else []
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schemas |= content["schema"].pop("$defs", {})


def _for_endpoints(
    path: str, operations: dict[str, Any], endpoints: Iterable[str]
) -> dict[str, Any]:
    """The path as it is, or once for each endpoint."""
    template = json.dumps({path: operations})
    paths: dict[str, Any] = {}
    for endpoint_id in endpoints:
        paths |= json.loads(
            template.replace("{endpoint}", endpoint_id)
            .replace("{app}", app_of(endpoint_id))
            .replace("{Endpoint}", schema_name(endpoint_id))
            .replace("{App}", "" if app_of(endpoint_id) == APP else schema_name(endpoint_id))
        )
    return paths
