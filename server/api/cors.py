"""Which pages of other origins a browser lets read our answers (CORS).

Origins are named one by one: there is no `*`. Their pages show a key in a header; the cookie of a
session is for the server's own page, so no answer allows credentials.
"""

from collections.abc import Set

from starlette.datastructures import Headers

_METHODS = "GET, HEAD, POST, PUT, DELETE, OPTIONS"
_REQUEST_HEADERS = ", ".join(
    (
        "authorization",
        "content-type",
        "accept",
        "range",
        "idempotency-key",
        "x-fal-target-url",
        "x-fal-queue-priority",
        "x-fal-request-timeout",
        "x-fal-runner-hint",
        "x-fal-object-lifecycle-preference",
        "x-fal-object-lifecycle",
        "x-fal-file-name",
        "x-fal-store-io",
        "x-fal-no-retry",
        "mcp-protocol-version",
        "mcp-method",
        "mcp-name",
    )
)
_ANSWER_HEADERS = ", ".join(
    (
        "x-fal-request-id",
        "x-fal-request-timeout-type",
        "x-fal-error-type",
        "x-fal-billable-units",
        "x-fal-retryable",
        "x-fal-needs-retry",
        "retry-after",
        "etag",
    )
)
_PREFLIGHT_S = 600
"""How long a browser may remember the answer to a preflight."""


def is_preflight(method: str, headers: Headers) -> bool:
    """Whether a browser asks what a page may send, before it sends it."""
    return method == "OPTIONS" and "access-control-request-method" in headers


def cors_headers(headers: Headers, origins: Set[str]) -> dict[str, str]:
    """What every answer says to the browser that sent `headers`, if `origins` may read it."""
    if not origins:
        return {}
    # Also without an Origin, or a cache would give this answer to a page that needs the other.
    varying = {"vary": "Origin"}
    origin = headers.get("origin")
    if origin is None or origin not in origins:
        return varying
    return {
        **varying,
        "access-control-allow-origin": origin,
        "access-control-expose-headers": _ANSWER_HEADERS,
    }


def preflight_headers() -> dict[str, str]:
    """What an origin that may read our answers may send, besides `cors_headers`."""
    return {
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": _REQUEST_HEADERS,
        "access-control-max-age": str(_PREFLIGHT_S),
    }
