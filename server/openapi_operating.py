"""What this server's OpenAPI document says of the paths for the people who run it."""

from server.openapi_operations import Paths
from server.openapi_parts import STRING, Operation, answer

OPERATING: Paths = {
    "/metrics": {
        "get": Operation(
            id="metrics",
            summary="Numbers for Prometheus; the key needs the scope admin",
            answers={"200": answer("The metrics.", STRING, "text/plain")},
        )
    },
}
