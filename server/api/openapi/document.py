"""This server's own OpenAPI document: every route, its body, and what it answers.

Written out rather than gathered from the routes: they read bodies as they come, whatever type
these say they have, and answer as fal does, which FastAPI cannot see. A test holds the two
together.
"""

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

from server.api.openapi.files import file_operations
from server.api.openapi.operations import OPERATIONS, REQUEST_MODELS, operations_of
from server.api.openapi.operators import OPERATING
from server.api.openapi.parts import SCHEMAS, Operation, schemas_of
from server.api.openapi.schemas import endpoint_schemas
from server.fal.endpoints import ENDPOINTS, Limits
from server.settings import FilesAuth

_DESCRIPTION = """\
The services of fal that its clients use, each under a prefix: `/run` is `fal.run`, `/queue` is
`queue.fal.run`, `/rest` is `rest.fal.ai` and `/files` is `v3.fal.media`. Every path also works with
a slash at its end, and every path of a request with the whole id of its endpoint. Any call may be
refused, with a body that says why.
"""


def openapi_document(
    base_url: str, limits: Limits, *, needs_key: bool, files_auth: FilesAuth = "public"
) -> dict[str, Any]:
    """The document, for callers of `base_url`."""
    paths = {
        path: {
            method: operation.document(path, server_needs_key=needs_key)
            for method, operation in operations.items()
        }
        for path, operations in _operations(files_auth)
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cosmos-serve",
            "version": importlib.metadata.version("cosmos-serve"),
            "description": _DESCRIPTION,
        },
        "servers": [{"url": base_url}],
        "paths": paths,
        "components": {
            "schemas": _schemas(limits),
            "securitySchemes": {
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "The word `Key`, a space, and a key of this server.",
                }
            },
        },
    }


def _operations(files_auth: FilesAuth) -> Iterator[tuple[str, Mapping[str, Operation]]]:
    for endpoint_id in ENDPOINTS:
        yield from operations_of(endpoint_id).items()
    yield from OPERATIONS.items()
    yield from file_operations(files_auth).items()
    yield from OPERATING.items()


def _schemas(limits: Limits) -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    for endpoint_id in ENDPOINTS:
        schemas |= endpoint_schemas(endpoint_id, limits)
    for model in REQUEST_MODELS:
        schemas |= schemas_of(model)
    return schemas | dict(SCHEMAS)
