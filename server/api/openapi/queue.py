"""fal's OpenAPI document of an endpoint's queue, which tools read from `fal.ai/api/openapi/queue`.

The form is fal's: OpenAPI 3.0, one path for each call, the full id in each, and the order of the
fields in `x-fal-order-properties`. Where fal's documents say what neither fal nor this server
answers, this one says what it answers: logs are a list, the status of a request that is not done
comes with 202, and so does the answer to a cancel.
"""

from typing import Any

from server.api.openapi.parts import body, content, reference
from server.api.openapi.schemas import endpoint_schemas, schema_name
from server.fal.endpoints import ENDPOINTS, Limits
from server.fal.urls import Service, url_for
from server.models import CancelAnswer, JobStatus

Schema = dict[str, Any]

_QUEUE_STATUS: Schema = {
    "type": "object",
    "properties": {
        "status": {"type": "string", "enum": list(JobStatus)},
        "request_id": {"type": "string", "description": "The request id."},
        "response_url": {"type": "string", "description": "The response url."},
        "status_url": {"type": "string", "description": "The status url."},
        "cancel_url": {"type": "string", "description": "The cancel url."},
        "logs": {
            "type": "array",
            "nullable": True,
            "items": {"type": "object", "additionalProperties": True},
            "description": "The logs.",
        },
        "metrics": {
            "type": "object",
            "additionalProperties": True,
            "description": "The metrics.",
        },
        "queue_position": {"type": "integer", "description": "The queue position."},
    },
    "required": ["status", "request_id"],
}
_CANCEL_STATUS: Schema = {
    "type": "object",
    "properties": {"status": {"type": "string", "enum": list(CancelAnswer)}},
    "required": ["status"],
}
_REQUEST_ID: Schema = {
    "name": "request_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "description": "Request ID"},
}
_LOGS: Schema = {
    "name": "logs",
    "in": "query",
    "required": False,
    "schema": {
        "type": "number",
        "description": "Whether to include logs (`1`) in the response or not (`0`).",
    },
}


def queue_document(endpoint_id: str, base_url: str, limits: Limits) -> dict[str, Any]:
    """The document, for callers of `base_url`."""
    schemas = {"QueueStatus": _QUEUE_STATUS, **endpoint_schemas(endpoint_id, limits)}
    return {
        "openapi": "3.0.4",
        "info": {
            "title": f"Queue OpenAPI for {endpoint_id}",
            "version": "1.0.0",
            "description": f"The OpenAPI schema for the {endpoint_id} queue.",
            "x-fal-metadata": {
                "endpointId": endpoint_id,
                "category": ENDPOINTS[endpoint_id].category,
                "playgroundUrl": url_for(base_url, Service.DISCOVERY, "/docs"),
                "documentationUrl": url_for(
                    base_url, Service.DISCOVERY, f"/models/{endpoint_id}/llms.txt"
                ),
            },
        },
        "components": {
            "securitySchemes": {
                "apiKeyAuth": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "Fal Key",
                }
            },
            "schemas": {name: _ordered(schema) for name, schema in schemas.items()},
        },
        "paths": _paths(endpoint_id),
        "servers": [{"url": url_for(base_url, Service.QUEUE, "")}],
        "security": [{"apiKeyAuth": []}],
    }


def _ordered(schema: Schema) -> Schema:
    """An object's schema in OpenAPI 3.0, its fields named in their order."""
    properties = {name: _field(field) for name, field in schema["properties"].items()}
    return {"x-fal-order-properties": list(properties), **schema, "properties": properties}


def _field(schema: Schema) -> Schema:
    """A field's schema in OpenAPI 3.0, which has `nullable` for null and one `example` only."""
    field = dict(schema)
    if "anyOf" in field:
        alternatives = [each for each in field.pop("anyOf") if each != {"type": "null"}]
        assert len(alternatives) == 1, "OpenAPI 3.0 has no word for such a field"
        field = {**alternatives[0], "nullable": True, **field}
    if field.get("default", ...) is None:
        del field["default"]
    if "examples" in field:
        field["example"] = field.pop("examples")[0]
    if "$ref" in field:
        # What stands beside a reference would be ignored.
        field["allOf"] = [{"$ref": field.pop("$ref")}]
    return field


def _paths(endpoint_id: str) -> dict[str, Schema]:
    name = schema_name(endpoint_id)
    request = f"/{endpoint_id}/requests/{{request_id}}"
    status = reference("QueueStatus")
    return {
        f"{request}/status": {
            "get": {
                "parameters": [_REQUEST_ID, _LOGS],
                "responses": {
                    "200": content("The request status, when the request is completed.", status),
                    "202": content("The request status, until then.", status),
                },
            }
        },
        f"{request}/cancel": {
            "put": {
                "parameters": [_REQUEST_ID],
                "responses": {
                    "202": content("The request is being cancelled.", _CANCEL_STATUS),
                    "400": content("The request was completed already.", _CANCEL_STATUS),
                },
            }
        },
        f"/{endpoint_id}": {
            "post": {
                "requestBody": body(reference(f"{name}Input")),
                "responses": {"200": content("The request status.", status)},
            }
        },
        request: {
            "get": {
                "parameters": [_REQUEST_ID],
                "responses": {"200": content("Result of the request.", reference(f"{name}Output"))},
            }
        },
    }
