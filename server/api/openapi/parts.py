"""What routes say of themselves where FastAPI cannot see it, for `responses` and `openapi_extra`.

Routes read bodies as they come, whatever their Content-Type says, and headers as fal reads them.
"""

from typing import Any, NotRequired

from pydantic import BaseModel
from typing_extensions import TypedDict

from server.api.openapi.schemas import REF_TEMPLATE
from server.fal.headers import MAX_IDEMPOTENCY_KEY

Described = dict[str, Any]
"""A part of an OpenAPI document."""

TEXT: Described = {"type": "string"}
BYTES: Described = {"type": "string", "contentMediaType": "application/octet-stream"}


def reference(name: str) -> Described:
    """A schema that the document has under this name."""
    return {"$ref": REF_TEMPLATE.format(model=name)}


class InputProblem(TypedDict):
    """One thing that is wrong with the input."""

    loc: list[str | int]
    msg: str
    type: str
    url: str
    input: Any
    ctx: NotRequired[dict[str, Any]]


class Problem(TypedDict):
    """What is wrong: a sentence, or, where the input is at fault, the fields."""

    detail: str | list[InputProblem]
    error_type: NotRequired[str]


def answer(description: str, model: Any) -> Described:
    """An answer that is JSON."""
    return {"description": description, "model": model}


def problem(description: str) -> Described:
    """An answer that refuses the request."""
    return answer(description, Problem)


def content(description: str, schema: Described, media_type: str = "application/json") -> Described:
    """An answer that is not JSON, or whose schema is not a model's."""
    return {"description": description, "content": {media_type: {"schema": schema}}}


def text(description: str, media_type: str = "text/plain") -> Described:
    """An answer that is text."""
    return content(description, TEXT, media_type)


def json_body(model: type[BaseModel]) -> Described:
    """A body that is read as JSON. The document lifts its `$defs` to the other schemas."""
    schema = model.model_json_schema(ref_template=REF_TEMPLATE)
    schemas = {**schema.pop("$defs", {}), model.__name__: schema}
    return body({**reference(model.__name__), "$defs": schemas})


def body(schema: Described, media_type: str = "application/json") -> Described:
    return {"required": True, "content": {media_type: {"schema": schema}}}


BYTES_BODY = body(BYTES, "application/octet-stream") | {"required": False}


def query(name: str, description: str, *, required: bool = False, **schema: Any) -> Described:
    return {**_parameter(name, "query", description, schema), "required": required}


def header(name: str, description: str, **schema: Any) -> Described:
    return _parameter(name, "header", description, schema)


def _parameter(name: str, place: str, description: str, schema: Described) -> Described:
    schema = {"type": "string", **schema}
    return {"name": name, "in": place, "description": description, "schema": schema}


LIFECYCLE = header(
    "X-Fal-Object-Lifecycle-Preference",
    'How long files are kept, such as {"expiration_duration_seconds": 3600}.',
)
REQUEST_HEADERS = [
    header(
        "X-Fal-Request-Timeout",
        "Seconds within which the request must be started, or else it fails with 504.",
        pattern=r"^[1-9][0-9]{0,8}(\.[0-9]*)?$",
    ),
    header("X-Fal-No-Retry", "1: not started again if its worker dies.", enum=["0", "1"]),
    header("X-Fal-Store-IO", "0: input and output are not kept in the database.", enum=["0", "1"]),
    LIFECYCLE,
]
PRIORITY = header("X-Fal-Queue-Priority", "low: after all others.", enum=["normal", "low"])
QUEUE_HEADERS = [
    *REQUEST_HEADERS,
    PRIORITY,
    header(
        "Idempotency-Key",
        "A submit that comes again with the same key and body is the same request.",
        minLength=1,
        maxLength=MAX_IDEMPOTENCY_KEY,
    ),
]

# The document names each endpoint's own in place of `{Endpoint}`.
ENDPOINT_BODY = body(reference("{Endpoint}Input"))
OUTPUT = content("The video.", reference("{Endpoint}Output"))
EVENTS = content("Events, until it is completed.", {}, "text/event-stream")
"""OpenAPI 3.1 cannot say what the single events of a stream are."""

INVALID = problem("The input cannot be used; `detail` names the fields.")
FULL = problem("As many requests wait as may wait, or the key has sent as many as it may.")
LATE = problem("It was not started within X-Fal-Request-Timeout.")
