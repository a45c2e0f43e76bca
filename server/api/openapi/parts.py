"""What the operations of the OpenAPI document are made of: schemas, parameters, answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from server.api.openapi.schemas import REF_TEMPLATE
from server.fal.headers import MAX_IDEMPOTENCY_KEY
from server.fal.urls import Service
from server.files.uploads import MAX_PARTS

Schema = Mapping[str, Any]

STRING: Schema = {"type": "string"}
BYTES: Schema = {"type": "string", "contentMediaType": "application/octet-stream"}


def reference(name: str) -> Schema:
    """A schema that the document has under this name."""
    return {"$ref": REF_TEMPLATE.format(model=name)}


def object_of(
    required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None
) -> Schema:
    """An object that has these fields and may have others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
    }


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_LOG_LINE = object_of(
    {
        "message": STRING,
        "level": STRING,
        "source": STRING,
        "timestamp": {"type": "string", "format": "date-time"},
        "labels": object_of({"level": STRING}),
    }
)
_SECONDS: Schema = {"type": "number", "minimum": 0}

SCHEMAS: Mapping[str, Schema] = {
    "QueueStatus": object_of(
        {
            "status": {"enum": ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]},
            "request_id": STRING,
            "gateway_request_id": STRING,
            "response_url": STRING,
            "status_url": STRING,
            "cancel_url": STRING,
            "logs": nullable({"type": "array", "items": _LOG_LINE}),
            "metrics": object_of({}, {"inference_time": nullable(_SECONDS)}),
        },
        {
            "queue_position": {"type": "integer", "minimum": 0},
            "error": STRING,
            "error_type": STRING,
        },
    ),
    "CancelStatus": object_of(
        {"status": {"enum": ["CANCELLATION_REQUESTED", "ALREADY_COMPLETED"]}}
    ),
    "Problem": {
        "description": "What is wrong: a sentence, or, where the input is at fault, the fields.",
        **object_of(
            {"detail": {"anyOf": [STRING, {"type": "array", "items": reference("InputProblem")}]}},
            {"error_type": STRING},
        ),
    },
    "InputProblem": object_of(
        {
            "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
            "msg": STRING,
            "type": STRING,
            "url": STRING,
            "input": {},
        },
        {"ctx": {"type": "object"}},
    ),
    "UploadUrls": object_of({"upload_url": STRING, "file_url": STRING}),
    "Part": object_of({"partNumber": {"type": "integer"}, "etag": STRING}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. `answers` are by status; every operation can also fail."""

    id: str
    summary: str
    answers: Mapping[str, Schema]
    parameters: Sequence[Schema] = ()
    body: Schema | None = None
    needs_key: bool = True
    described: str = ""

    def document(self, path: str, *, server_needs_key: bool) -> dict[str, Any]:
        """The operation as OpenAPI has it."""
        in_path = [path_parameter(part[1:-1]) for part in path.split("/") if part[:1] == "{"]
        answers = {
            status: {**each, "headers": {**_REQUEST_ID, **each.get("headers", {})}}
            for status, each in {**self.answers, "default": problem("Why it was refused.")}.items()
        }
        document: dict[str, Any] = {
            "operationId": self.id,
            "tags": [_tag(path)],
            "summary": self.summary,
            "description": self.described,
            "parameters": [*in_path, *self.parameters],
            "responses": answers,
            "security": [{"key": []}] if self.needs_key and server_needs_key else [],
        }
        if self.body is not None:
            document["requestBody"] = self.body
        return document


def _tag(path: str) -> str:
    """What the operation is listed under: its service."""
    first = path.split("/")[1]
    return first if first in set(Service) - {Service.DISCOVERY} else Service.DISCOVERY


_REQUEST_ID: Schema = {
    "x-fal-request-id": {"description": "The request's id, for logs and support.", "schema": STRING}
}


def answer(description: str, schema: Schema, media_type: str = "application/json") -> Schema:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def empty(description: str) -> Schema:
    return answer(description, {"type": "object"})


def problem(description: str) -> Schema:
    return answer(description, reference("Problem"))


def json_body(schema: Schema) -> Schema:
    """A body that is read as JSON whatever its type says it is."""
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def json_body_of(model: type[BaseModel]) -> Schema:
    return json_body(reference(model.__name__))


def schemas_of(model: type[BaseModel]) -> Mapping[str, Schema]:
    """The schema that `json_body_of` refers to, and those that it refers to itself."""
    schema = model.model_json_schema(ref_template=REF_TEMPLATE)
    parts: Mapping[str, Schema] = schema.pop("$defs", {})
    return {model.__name__: schema, **parts}


BYTES_BODY: Schema = {"required": False, "content": {"application/octet-stream": {"schema": BYTES}}}


_IN_PATH: Mapping[str, Schema] = {"number": {"type": "integer", "minimum": 1, "maximum": MAX_PARTS}}
"""What stands in paths and is not just any text."""


def path_parameter(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": _IN_PATH.get(name, STRING)}


def query(name: str, description: str, schema: Schema, *, required: bool = False) -> Schema:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": description,
        "schema": schema,
    }


def header(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": schema}


LIFECYCLE = header(
    "X-Fal-Object-Lifecycle-Preference",
    'How long files are kept, such as {"expiration_duration_seconds": 3600}.',
    STRING,
)
_SWITCH: Schema = {"enum": ["0", "1"]}
REQUEST_HEADERS = (
    header(
        "X-Fal-Request-Timeout",
        "Seconds within which the request must be started, or else it fails with 504.",
        {"type": "string", "pattern": r"^[1-9][0-9]{0,8}(\.[0-9]*)?$"},
    ),
    header("X-Fal-No-Retry", "1: not started again if its worker dies.", _SWITCH),
    header("X-Fal-Store-IO", "0: input and output are not kept in the database.", _SWITCH),
    LIFECYCLE,
)
QUEUE_HEADERS = (
    *REQUEST_HEADERS,
    header("X-Fal-Queue-Priority", "low: after all others.", {"enum": ["normal", "low"]}),
    header(
        "Idempotency-Key",
        "A submit that comes again with the same key and body is the same request.",
        {"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY},
    ),
)
