"""The operations in this server's OpenAPI document, service by service."""

from collections.abc import Mapping
from typing import Any

from server.api.openapi.parts import (
    BYTES_BODY,
    LIFECYCLE,
    QUEUE_HEADERS,
    REQUEST_HEADERS,
    STRING,
    Operation,
    answer,
    empty,
    header,
    json_body,
    json_body_of,
    nullable,
    object_of,
    problem,
    query,
    reference,
)
from server.api.openapi.schemas import schema_name
from server.api.routes.storage import UploadRequest
from server.api.routes.tokens import TokenRequest
from server.api.routes.uploads import CompleteRequest
from server.fal.endpoints import ENDPOINTS, app_of

Paths = Mapping[str, Mapping[str, Operation]]

# OpenAPI 3.1 cannot say what the single events of a stream are.
_EVENTS = answer("Events, until it is completed.", {}, "text/event-stream")
_LOGS = query("logs", "1 or true: with the log.", STRING)
_STATUS = reference("QueueStatus")


def operations_of(endpoint_id: str) -> Paths:
    """What can be done with an endpoint."""
    name = schema_name(endpoint_id)
    output = answer("The video.", reference(f"{name}Output"))
    request = f"/queue/{app_of(endpoint_id)}/requests/{{request_id}}"
    body = json_body(reference(f"{name}Input"))
    invalid = problem("The input cannot be used; `detail` names the fields.")
    full = problem("As many requests wait as may wait, or the key has sent as many as it may.")
    late = problem("It was not started within X-Fal-Request-Timeout.")
    return {
        f"/run/{endpoint_id}": {
            "post": Operation(
                id=f"run{name}",
                summary="Make a video and wait for it",
                answers={"200": output, "422": invalid, "429": full, "504": late},
                parameters=REQUEST_HEADERS,
                body=body,
            )
        },
        f"/run/{endpoint_id}/stream": {
            "post": Operation(
                id=f"stream{name}",
                summary="Make a video and tell of it meanwhile",
                described="Each event but the last is a status with new lines of the log; the "
                "last is the output, or the body of the error.",
                answers={"200": _EVENTS, "422": invalid, "429": full},
                parameters=REQUEST_HEADERS,
                body=body,
            )
        },
        f"/queue/{endpoint_id}": {
            "post": Operation(
                id=f"submit{name}",
                summary="Put a request in the queue",
                described="Invalid input is accepted, and reported by the result.",
                answers={"200": answer("It is in the queue.", _STATUS), "429": full},
                parameters=(*QUEUE_HEADERS, _WEBHOOK),
                body=body,
            )
        },
        request: {
            "get": Operation(
                id="result",
                summary="The output of a request, or the error that it ended with",
                answers={
                    "200": output,
                    "400": problem("The request is still in progress."),
                    "422": invalid,
                    "499": problem("The request was cancelled."),
                    "504": late,
                },
            )
        },
        **_request_operations(request),
        f"/models/{endpoint_id}/llms.txt": {
            "get": _document(f"llms{name}", "The endpoint, for language models", _TEXT)
        },
    }


_WEBHOOK = query("fal_webhook", "Where to POST the result to.", {"type": "string", "format": "uri"})


def _request_operations(request: str) -> Paths:
    return {
        f"{request}/status": {
            "get": Operation(
                id="status",
                summary="Where a request stands",
                answers={
                    "200": answer("It is completed, be it with an error.", _STATUS),
                    "202": answer("It waits or runs.", _STATUS),
                },
                parameters=(_LOGS,),
            )
        },
        f"{request}/status/stream": {
            "get": Operation(
                id="statusStream",
                summary="Where a request stands, told until it is completed",
                described="Each event is a status with new lines of the log.",
                answers={"200": _EVENTS},
                parameters=(_LOGS,),
            )
        },
        f"{request}/cancel": {
            "put": Operation(
                id="cancel",
                summary="Stop a request",
                answers={
                    "202": answer("It is being stopped.", reference("CancelStatus")),
                    "400": answer("It was completed already.", reference("CancelStatus")),
                },
            )
        },
    }


_UPLOAD_HEADERS = (
    header("X-Fal-File-Name", "The file's name.", STRING),
    LIFECYCLE,
)
_PART = {
    **answer("The part is here.", reference("Part")),
    "headers": {"etag": {"description": "The part's tag.", "schema": STRING}},
}
_STORAGE: Paths = {
    "/rest/storage/auth/token": {
        "post": Operation(
            id="storageToken",
            summary="A token for uploads, which fal's Python client asks for",
            answers={
                "200": answer(
                    "A token for an hour.",
                    object_of(
                        {
                            "token": STRING,
                            "token_type": STRING,
                            "base_url": STRING,
                            "expires_at": {"type": "string", "format": "date-time"},
                        }
                    ),
                )
            },
        )
    },
    "/rest/storage/upload/initiate": {
        "post": Operation(
            id="initiateUpload",
            summary="Begin an upload that comes in one PUT",
            answers={"200": answer("Where to put it.", reference("UploadUrls"))},
            parameters=(LIFECYCLE,),
            body=json_body_of(UploadRequest),
        )
    },
    "/rest/storage/upload/initiate-multipart": {
        "post": Operation(
            id="initiateMultipartUpload",
            summary="Begin an upload that comes in parts",
            answers={"200": answer("Where to put the parts.", reference("UploadUrls"))},
            parameters=(LIFECYCLE,),
            body=json_body_of(UploadRequest),
        )
    },
    "/files/upload": {
        "post": Operation(
            id="uploadFile",
            summary="Keep the body as a file",
            answers={"200": answer("Where it can be read.", object_of({"access_url": STRING}))},
            parameters=_UPLOAD_HEADERS,
            body=BYTES_BODY,
        )
    },
    "/files/upload/multipart": {
        "post": Operation(
            id="beginMultipart",
            summary="Begin a file that comes in parts",
            answers={
                "200": answer(
                    "Where it will be.", object_of({"access_url": STRING, "uploadId": STRING})
                )
            },
            parameters=_UPLOAD_HEADERS,
        )
    },
    "/files/upload/{upload_id}": {
        "put": Operation(
            id="putFile",
            summary="The file of an upload, whole",
            described="The URL is all that is needed.",
            answers={"200": empty("It is here.")},
            body=BYTES_BODY,
            needs_key=False,
        )
    },
    "/files/upload/{upload_id}/{number}": {
        "put": Operation(
            id="putPart",
            summary="A part of an upload",
            described="The URL is all that is needed.",
            answers={"200": _PART},
            body=BYTES_BODY,
            needs_key=False,
        )
    },
    "/files/upload/{upload_id}/complete": {
        "post": Operation(
            id="completeUpload",
            summary="Make the parts of an upload one file",
            described="The URL is all that is needed.",
            answers={"200": empty("The file is here.")},
            body=json_body_of(CompleteRequest),
            needs_key=False,
        )
    },
    "/files/{file_id}/{name}/multipart/{upload_id}/{number}": {
        "put": Operation(
            id="putPartOfFile",
            summary="A part of a file",
            answers={"200": _PART},
            body=BYTES_BODY,
        )
    },
    "/files/{file_id}/{name}/multipart/{upload_id}/complete": {
        "post": Operation(
            id="completeFile",
            summary="Make the parts one file",
            answers={"200": empty("The file is here.")},
            body=json_body_of(CompleteRequest),
        )
    },
}

_KEY_SET = object_of({"keys": {"type": "array", "items": {"type": "object"}}})
_REST: Paths = {
    "/rest/tokens": {
        "post": Operation(
            id="token",
            summary="A token that stands for the key in a browser, for some apps and a while",
            answers={"200": answer("The token.", STRING)},
            body=json_body_of(TokenRequest),
        )
    },
    "/.well-known/jwks.json": {
        "get": Operation(
            id="keySet",
            summary="The key that webhooks are signed with",
            answers={"200": answer("A key set.", _KEY_SET)},
            needs_key=False,
        )
    },
}

_SLOT = object_of(
    {"name": STRING, "state": STRING, "device": nullable(STRING)},
    {
        "loading": object_of({"text": STRING, "fraction": {"type": "number"}}),
        "down_reason": STRING,
    },
)
_CHECK = object_of({"name": STRING, "passed": {"type": "boolean"}}, {"problem": STRING})
_READINESS = object_of(
    {
        "status": STRING,
        "checks": {"type": "array", "items": _CHECK},
        "slots": {"type": "array", "items": _SLOT},
    }
)
_HEALTH: Paths = {
    "/health/live": {
        "get": Operation(
            id="live",
            summary="Whether the process answers",
            answers={"200": answer("It does.", object_of({"status": STRING}))},
            needs_key=False,
        )
    },
    "/health/ready": {
        "get": Operation(
            id="ready",
            summary="Whether a video could be made now, and what is missing",
            answers={
                "200": answer("It could.", _READINESS),
                "503": answer("Something is missing.", _READINESS),
            },
            needs_key=False,
        )
    },
}


def _document(id: str, summary: str, content: Mapping[str, Any], *parameters: Any) -> Operation:
    return Operation(
        id=id, summary=summary, answers={"200": content}, parameters=parameters, needs_key=False
    )


_OBJECT = answer("The document.", {"type": "object"})
_TEXT = answer("The page.", STRING, "text/plain")
_ENDPOINT_ID = query("endpoint_id", "The endpoint's id.", {"enum": list(ENDPOINTS)}, required=True)
_DISCOVERY: Paths = {
    "/api/openapi/queue/openapi.json": {
        "get": _document(
            "queueDocument", "An endpoint's queue, as fal describes it", _OBJECT, _ENDPOINT_ID
        )
    },
    "/llms.txt": {"get": _document("llms", "The endpoints, for language models", _TEXT)},
    "/openapi.json": {"get": _document("document", "This document", _OBJECT)},
    "/docs": {
        "get": _document(
            "docs", "A page on which to try the API", answer("The page.", STRING, "text/html")
        )
    },
}

OPERATIONS: Paths = {**_REST, **_STORAGE, **_HEALTH, **_DISCOVERY}
"""What depends on neither an endpoint nor a setting."""

REQUEST_MODELS = (UploadRequest, CompleteRequest, TokenRequest)
"""The bodies that are models, besides the endpoints' input."""
