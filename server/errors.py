"""What can go wrong with a request, and fal's answer to it: one table.

fal has two shapes of error. Where the input is at fault, `detail` is a list of items that name the
field; elsewhere it is a sentence, with `error_type` beside it. Routes raise, and contain no `try`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import InputError
from server.models import TOO_LATE, JobError

ERROR_PAGE = "https://docs.fal.ai/errors#"
RETRY_AFTER_S = 10
_LONGEST_ECHO = 200
"""Characters of the caller's own value that an error repeats; it may be a whole picture."""


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An HTTP answer that says what is wrong."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


class RequestError(Exception):
    """A request cannot be served; the message is a sentence for whoever sent it."""


class BadRequest(RequestError):
    """The request itself is malformed."""


class Unauthorized(RequestError):
    """The request has no key, or one that we do not know."""


class Forbidden(RequestError):
    """We know who sent the request, and that they may not."""


class MisdirectedRequest(RequestError):
    """The request is for a host that is not this server."""


class UnknownPath(RequestError):
    """Nothing is served there; the message is the path."""


class MethodNotAllowed(RequestError):
    """The path takes another method, which the message names."""


class UnknownJob(RequestError):
    """There is no request of that id, or it is somebody else's."""

    def __init__(self) -> None:
        super().__init__("Request not found")


class UnknownFile(RequestError):
    """There is no file of that id."""

    def __init__(self) -> None:
        super().__init__("File not found")


class FileUrlRefused(RequestError):
    """The URL of a file has to be signed, and is not, or its time is over."""


class UnknownUpload(RequestError):
    """There is no upload of that id, or it is somebody else's."""

    def __init__(self) -> None:
        super().__init__("Upload not found")


class UploadClosed(RequestError):
    """The URL has been used, or its time is over."""

    def __init__(self) -> None:
        super().__init__("This upload is over: its URL works once, for an hour. Begin another.")


class UploadTooLarge(RequestError):
    """The file has more bytes than one may have."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The file is larger than {limit:,} bytes, which is the limit for one.")


class StorageFull(RequestError):
    """All uploads together have as many bytes as they may have."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"There is no room for this file: all uploads together may have {limit:,} bytes. "
            "They go when they expire; COSMOS_STORAGE_LIMIT_MIB sets the limit."
        )


class KeyStorageFull(RequestError):
    """The uploads of one key together have as many bytes as they may have."""

    def __init__(self, key_id: str, limit: int) -> None:
        super().__init__(
            f"There is no room for this file: the uploads of the key {key_id!r} together may have "
            f"{limit:,} bytes. They go when they expire; COSMOS_KEY_STORAGE_LIMIT_MIB sets the "
            "limit."
        )


class DiskFull(RequestError):
    """The disk has less space left than we leave free; the message says how much."""


class OutputExpired(RequestError):
    """The request succeeded, and its files have reached the end of their lifetime."""

    def __init__(self) -> None:
        super().__init__("The files of this request have expired")


class IdempotencyMismatch(RequestError):
    """The same Idempotency-Key came with another request."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key belongs to a request with another body.")


class StillInProgress(RequestError):
    """The result was asked for too early. Clients compare this very sentence and poll on."""

    def __init__(self) -> None:
        super().__init__("Request is still in progress")


class BodyTooLarge(RequestError):
    """The body has more bytes than we read."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The request's body is larger than {limit:,} bytes, which is the limit.")


class TextTooLarge(RequestError):
    """The body has more bytes besides its pictures than we keep."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The request without its picture is larger than {limit:,} bytes, which is the limit "
            "for the rest."
        )


class RequestTooSlow(RequestError):
    """The caller pauses in the middle of its request, or sends it too slowly to wait for."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"The rest of the request did not come within {limit_s:g} seconds, or comes too "
            "slowly. COSMOS_READ_TIMEOUT sets the limit."
        )


class HeadersTooLarge(RequestError):
    """The request line and the headers have more bytes than we read."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The request's address and headers are larger than {limit:,} bytes, which is the "
            "limit for them."
        )


class TooManyConnections(RequestError):
    """As many connections are open as may be."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"This server has {limit:,} connections, which is its limit. Try again later; "
            "COSMOS_CONNECTION_LIMIT sets it."
        )


class TooManyLargeBodies(RequestError):
    """As many large bodies are being read as we have memory for."""

    def __init__(self) -> None:
        super().__init__(
            "Too many large requests are coming in at once. Try again later, or upload the "
            "picture and send its URL."
        )


class QueueFull(RequestError):
    """As many jobs wait as may wait."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The queue is full: {limit:,} requests are waiting. Try again later.")


class KeyQueueFull(RequestError):
    """As many jobs of one key wait as may wait."""

    def __init__(self, key_id: str, limit: int) -> None:
        super().__init__(
            f"The key {key_id!r} has {limit:,} requests waiting, which is the limit for one key. "
            "Try again later; COSMOS_KEY_QUEUE_LIMIT sets the limit."
        )


class TooManySubmits(RequestError):
    """As many requests of one key came within a minute as may come."""

    def __init__(self, key_id: str, limit: int, wait_s: float) -> None:
        # Rounded up: whoever comes back then is let in.
        self.retry_after_s = math.ceil(wait_s)
        super().__init__(
            f"The key {key_id!r} has sent {limit:,} requests within a minute, which is the limit "
            f"for one key. Try again in {self.retry_after_s} seconds; "
            "COSMOS_KEY_SUBMITS_PER_MINUTE sets the limit."
        )


class InvalidInput(RequestError):
    """The input cannot be used; `items` say which fields and why, in fal's shape."""

    def __init__(self, items: Sequence[Mapping[str, Any]]) -> None:
        super().__init__("; ".join(str(item["msg"]) for item in items))
        self.items = list(items)

    @classmethod
    def from_error(cls, error: InputError, given: Any) -> "InvalidInput":
        """The pipeline's complaint about the field that was `given`."""
        loc = ("body", error.field)
        return cls([error_item(loc, str(error), error.code, given, error.context)])


def error_item(
    loc: Sequence[str | int],
    message: str,
    kind: str,
    given: Any,
    context: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One item of `detail`, as fal writes it."""
    item = {
        "loc": list(loc),
        "msg": message,
        "type": kind,
        "url": f"{ERROR_PAGE}{kind}",
        "input": truncated(given),
    }
    return item | ({"ctx": truncated(context)} if context else {})


def truncated(value: Any) -> Any:
    """A value from outside in a form that is short and surely JSON."""
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode()
        return text if len(text) <= _LONGEST_ECHO else f"{text[:_LONGEST_ECHO]}…"
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    if isinstance(value, Mapping):
        return {truncated(str(key)): truncated(item) for key, item in list(value.items())[:50]}
    if isinstance(value, list | tuple):
        return [truncated(item) for item in value[:50]]
    return truncated(str(value))


def error_response(error: Exception) -> ErrorResponse:
    """The answer to a request that failed with this exception."""
    for kind in type(error).__mro__:
        if kind in _ANSWERS:
            return _ANSWERS[kind](error)
    return ErrorResponse(500, {"detail": "Internal Server Error"})


def job_error(error: RequestError) -> JobError:
    """The same answer, to be kept in a job's row and given by its result."""
    given = error_response(error)
    return JobError(given.status, given.body)


def infrastructure_error(message: str, error_type: str) -> JobError:
    """The failure of a run for which the caller's input is not to blame."""
    return JobError(500, {"detail": message, "error_type": error_type})


def job_error_headers(error: JobError) -> dict[str, str]:
    """The headers that go with a job's error."""
    may_be_retried = "true" if error.http_status >= 500 else "false"
    headers = {
        "x-fal-billable-units": "0",
        # fal's documents have both names.
        "x-fal-retryable": may_be_retried,
        "x-fal-needs-retry": may_be_retried,
    }
    if error.error_type is not None:
        headers["x-fal-error-type"] = error.error_type
    if error == TOO_LATE:
        # The time was the caller's own: clients do not send such a request again.
        headers["x-fal-request-timeout-type"] = "user"
    return headers


def _sentence(
    status: int, error_type: str | None = None, headers: Mapping[str, str] | None = None
) -> Callable[[Exception], ErrorResponse]:
    """Answers whose `detail` is the exception's message."""

    def render(error: Exception) -> ErrorResponse:
        body = {"detail": str(error)}
        if error_type is None:
            return ErrorResponse(status, body, headers or {})
        typed = {"x-fal-error-type": error_type, **(headers or {})}
        return ErrorResponse(status, {**body, "error_type": error_type}, typed)

    return render


def _unknown_path(error: Exception) -> ErrorResponse:
    return ErrorResponse(404, {"detail": f"Path {error} not found"}, {"x-fal-billable-units": "0"})


def _wrong_method(error: Exception) -> ErrorResponse:
    return ErrorResponse(405, {"detail": "Method Not Allowed"}, {"allow": str(error)})


def _too_many_submits(error: Exception) -> ErrorResponse:
    assert isinstance(error, TooManySubmits)
    return ErrorResponse(429, {"detail": str(error)}, {"retry-after": str(error.retry_after_s)})


def _invalid_input(error: Exception) -> ErrorResponse:
    assert isinstance(error, InvalidInput)
    body = {"detail": error.items}
    return ErrorResponse(422, body, job_error_headers(JobError(422, body)))


_ANSWERS: Mapping[type, Callable[[Exception], ErrorResponse]] = {
    BadRequest: _sentence(400, "bad_request"),
    StillInProgress: _sentence(400),
    Unauthorized: _sentence(401, headers={"www-authenticate": "Key"}),
    Forbidden: _sentence(403),
    UnknownPath: _unknown_path,
    UnknownJob: _sentence(404),
    OutputExpired: _sentence(404),
    IdempotencyMismatch: _sentence(422, "bad_request"),
    UnknownFile: _sentence(404),
    FileUrlRefused: _sentence(403),
    UnknownUpload: _sentence(404),
    UploadClosed: _sentence(410),
    UploadTooLarge: _sentence(413, "bad_request"),
    StorageFull: _sentence(507),
    KeyStorageFull: _sentence(507),
    DiskFull: _sentence(507, headers={"retry-after": str(RETRY_AFTER_S)}),
    MethodNotAllowed: _wrong_method,
    MisdirectedRequest: _sentence(421),
    BodyTooLarge: _sentence(413, "bad_request"),
    TextTooLarge: _sentence(413, "bad_request"),
    RequestTooSlow: _sentence(408, "bad_request", {"connection": "close"}),
    HeadersTooLarge: _sentence(431, "bad_request"),
    TooManyConnections: _sentence(503, headers={"retry-after": str(RETRY_AFTER_S)}),
    TooManyLargeBodies: _sentence(503, headers={"retry-after": str(RETRY_AFTER_S)}),
    InvalidInput: _invalid_input,
    QueueFull: _sentence(429, headers={"retry-after": str(RETRY_AFTER_S)}),
    KeyQueueFull: _sentence(429, headers={"retry-after": str(RETRY_AFTER_S)}),
    TooManySubmits: _too_many_submits,
}
