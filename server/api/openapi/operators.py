"""What this server's OpenAPI document says of the paths for the people who run it."""

from server.api.openapi.operations import Paths
from server.api.openapi.parts import STRING, Operation, answer, nullable, object_of

_QUEUE = answer(
    "Whether the queue is paused, and since when in Unix seconds.",
    object_of({"paused": {"type": "boolean"}, "paused_since": nullable({"type": "number"})}),
)

OPERATING: Paths = {
    "/metrics": {
        "get": Operation(
            id="metrics",
            summary="Numbers for Prometheus; the key needs the scope admin",
            answers={"200": answer("The metrics.", STRING, "text/plain")},
        )
    },
    "/admin/queue": {
        "get": Operation(
            id="queueState",
            summary="Whether the queue is paused; the key needs the scope admin",
            answers={"200": _QUEUE},
        )
    },
    "/admin/queue/pause": {
        "post": Operation(
            id="pauseQueue",
            summary="Start no more jobs; the key needs the scope admin",
            answers={"200": _QUEUE},
        )
    },
    "/admin/queue/resume": {
        "post": Operation(
            id="resumeQueue",
            summary="Start jobs again; the key needs the scope admin",
            answers={"200": _QUEUE},
        )
    },
}
