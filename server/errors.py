"""What can go wrong with a request: each exception is also the answer that its caller gets.

fal has two shapes of error. Where the input is at fault, `detail` is a list of items that name the
field; elsewhere it is a sentence, with `error_type` beside it. Routes raise these exceptions, and
the app makes responses of them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from pipeline.errors import InputError

ERROR_PAGE = "https://docs.fal.ai/errors#"
TRY_AGAIN_LATER = {"retry-after": "10"}
MAX_DETAIL_BYTES = 64 * 1024
"""Of the JSON of all items together: it is stored, and sent again with every result."""

_LONGEST_ECHO = 200
"""Characters of one text of the caller's that an error repeats; it may be a whole picture."""

_LONGEST_MESSAGE = 2000
_ECHO_BYTES = 8 * 1024
"""About what one item repeats of a value that has other values in it."""

_ECHO_DEPTH = 8
_CUT = "…"
"""Stands for what is left out."""


class RequestError(Exception):
    """A request cannot be served.

    `message` is the format of the sentence for the caller, and so is each value of `headers`; both
    are filled with the arguments. `error_type` is fal's name for the kind of error.
    """

    status: ClassVar[int]
    error_type: ClassVar[str | None] = None
    message: ClassVar[str] = "{}"
    headers: Mapping[str, str] = {}

    def __init__(self, *values: object) -> None:
        sentence = self.message.format(*values)
        super().__init__(sentence)
        self.headers = {name: text.format(*values) for name, text in self.headers.items()}
        self.body: dict[str, Any] = {"detail": sentence}
        if self.error_type is not None:
            self.body["error_type"] = self.error_type
            self.headers = {"x-fal-error-type": self.error_type, **self.headers}


class BadRequest(RequestError):
    """The request itself is malformed, or it breaks a limit of the server."""

    status = 400
    error_type = "bad_request"


class StillInProgress(RequestError):
    """The result was asked for too early. Clients compare this very sentence and poll on."""

    status = 400
    message = "Request is still in progress"


class Unauthorized(RequestError):
    """The request has no key, or one that this server does not know."""

    status = 401
    headers: Mapping[str, str] = {"www-authenticate": "Key"}


class Forbidden(RequestError):
    """The caller is known, and may not do this."""

    status = 403


class FileUrlRefused(RequestError):
    """The URL of a file has to be signed, and is not, or its time is over."""

    status = 403


class UnknownPath(RequestError):
    """Nothing is served at this path."""

    status = 404
    message = "Path {} not found"
    headers: Mapping[str, str] = {"x-fal-billable-units": "0"}


class UnknownJob(RequestError):
    """There is no request of that id, or it is somebody else's."""

    status = 404
    message = "Request not found"


class OutputExpired(RequestError):
    """The request succeeded, and its files have reached the end of their lifetime."""

    status = 404
    message = "The files of this request have expired"


class UnknownFile(RequestError):
    """There is no file of that id."""

    status = 404
    message = "File not found"


class UnknownUpload(RequestError):
    """There is no upload of that id, or it is somebody else's."""

    status = 404
    message = "Upload not found"


class MethodNotAllowed(RequestError):
    """The path takes other methods, which the argument lists."""

    status = 405
    message = "Method Not Allowed"
    headers: Mapping[str, str] = {"allow": "{}"}


class RequestTooSlow(BadRequest):
    """The caller pauses for more than so many seconds, or sends too slowly to wait for."""

    status = 408
    message = (
        "The rest of the request did not come within {:g} seconds, or comes too slowly. "
        "COSMOS_READ_TIMEOUT sets the limit."
    )
    headers: Mapping[str, str] = {"connection": "close"}


class UploadClosed(RequestError):
    """The URL has been used, or its time is over."""

    status = 410
    message = "This upload is over: its URL works once, for an hour. Begin another."


class UploadTooLarge(BadRequest):
    """The file has more bytes than the limit."""

    status = 413
    message = "The file is larger than {:,} bytes, which is the limit for one."


class BodyTooLarge(BadRequest):
    """The body has more bytes than the limit."""

    status = 413
    message = "The request's body is larger than {:,} bytes, which is the limit."


class TextTooLarge(BadRequest):
    """The body without its pictures has more bytes than the limit."""

    status = 413
    message = (
        "The request without its picture is larger than {:,} bytes, which is the limit for the "
        "rest."
    )


class MisdirectedRequest(RequestError):
    """The request is for a host that is not this server."""

    status = 421


class IdempotencyMismatch(BadRequest):
    """The same Idempotency-Key came with another request."""

    status = 422
    message = "This Idempotency-Key belongs to a request with another body."


class QueueFull(RequestError):
    """As many jobs wait as the limit allows."""

    status = 429
    message = "The queue is full: {:,} requests are waiting. Try again later."
    headers = TRY_AGAIN_LATER


class KeyQueueFull(RequestError):
    """As many jobs of this key wait as its limit allows."""

    status = 429
    message = (
        "The key {!r} has {:,} requests waiting, which is the limit for one key. Try again later; "
        "COSMOS_KEY_QUEUE_LIMIT sets the limit."
    )
    headers = TRY_AGAIN_LATER


class TooManySubmits(RequestError):
    """This key sent as many requests within a minute as its limit allows.

    The last argument is the whole seconds after which one more is accepted.
    """

    status = 429
    message = (
        "The key {!r} has sent {:,} requests within a minute, which is the limit for one key. "
        "Try again in {} seconds; COSMOS_KEY_SUBMITS_PER_MINUTE sets the limit."
    )
    headers: Mapping[str, str] = {"retry-after": "{2}"}


class HeadersTooLarge(BadRequest):
    """The request line and the headers have more bytes than the limit."""

    status = 431
    message = (
        "The request's address and headers are larger than {:,} bytes, which is the limit for them."
    )


class InternalError(RequestError):
    """Something failed that was not foreseen. The log has it; the caller is told no more."""

    status = 500
    message = "Internal Server Error"


class TooManyConnections(RequestError):
    """As many connections are open as the limit allows."""

    status = 503
    message = (
        "This server has {:,} connections, which is its limit. Try again later; "
        "COSMOS_CONNECTION_LIMIT sets it."
    )
    headers = TRY_AGAIN_LATER


class TooManyLargeBodies(RequestError):
    """As many large bodies are being read as there is memory for."""

    status = 503
    message = (
        "Too many large requests are coming in at once. Try again later, or upload the picture and "
        "send its URL."
    )
    headers = TRY_AGAIN_LATER


class StorageFull(RequestError):
    """All uploads together have as many bytes as the limit allows."""

    status = 507
    message = (
        "There is no room for this file: all uploads together may have {:,} bytes. They go when "
        "they expire; COSMOS_STORAGE_LIMIT_MIB sets the limit."
    )


class KeyStorageFull(RequestError):
    """The uploads of this key together have as many bytes as its limit allows."""

    status = 507
    message = (
        "There is no room for this file: the uploads of the key {!r} together may have {:,} bytes. "
        "They go when they expire; COSMOS_KEY_STORAGE_LIMIT_MIB sets the limit."
    )


class Shortage(RequestError):
    """The machine is short of something for a while; the argument is a sentence that says of what.

    `server.disk` knows which errors mean that.
    """

    status = 503
    error_type: ClassVar[str | None] = "runner_scheduling_failure"
    message = "{} Try again later."
    headers: Mapping[str, str] = {
        **TRY_AGAIN_LATER,
        # fal's documents have both names.
        "x-fal-retryable": "true",
        "x-fal-needs-retry": "true",
    }


class DiskFull(Shortage):
    """The disk is full, or has less space left than is to stay free."""

    status = 507
    error_type = None
    message = "{}"


class DatabaseDamaged(InternalError):
    """A part of the database's file cannot be read."""

    message = (
        "The server's database is damaged. Its operator has to stop the server and put a copy of "
        "jobs.sqlite3 back into the data folder, or what `sqlite3 jobs.sqlite3 .recover` can "
        "still read of it."
    )


class InvalidInput(RequestError):
    """The input cannot be used; `items` say which fields and why, in fal's shape.

    Of many items those are kept that fit into `MAX_DETAIL_BYTES`.
    """

    status = 422
    headers: Mapping[str, str] = {
        "x-fal-billable-units": "0",
        # fal's documents have both names.
        "x-fal-retryable": "false",
        "x-fal-needs-retry": "false",
    }

    def __init__(self, items: Iterable[Mapping[str, Any]]) -> None:
        self.items = _that_fit(items)
        super().__init__("; ".join(str(item["msg"]) for item in self.items))
        self.body = {"detail": self.items}

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
        "msg": message[:_LONGEST_MESSAGE],
        "type": kind,
        "url": f"{ERROR_PAGE}{kind}",
        "input": truncated(given),
    }
    return item | ({"ctx": truncated(context)} if context else {})


def truncated(value: Any) -> Any:
    """A value from outside in a form that is short and surely JSON."""
    return _Echo().of(value)


class _Echo:
    """Copies one value, until there is no room for more of it."""

    def __init__(self) -> None:
        self._room = _ECHO_BYTES

    def of(self, value: Any, depth: int = 0) -> Any:
        if not isinstance(value, Mapping | list | tuple):
            return self._leaf(value)
        if depth == _ECHO_DEPTH:
            return self._leaf(_CUT)
        self._room -= len("[], ")
        if isinstance(value, Mapping):
            return self._mapping(value, depth + 1)
        copy: list[Any] = []
        for item in value:
            if self._room <= 0:
                return [*copy, _CUT]
            copy.append(self.of(item, depth + 1))
        return copy

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        copy: dict[str, Any] = {}
        for key, item in value.items():
            if self._room <= 0:
                return copy | {_CUT: _CUT}
            copy[self._leaf(str(key))] = self.of(item, depth)
        return copy

    def _leaf(self, value: Any) -> Any:
        copy = _short(value)
        self._room -= _json_size(copy)
        return copy


def _short(value: Any) -> Any:
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    text = str(value).encode("utf-8", "replace").decode()
    return text if len(text) <= _LONGEST_ECHO else f"{text[:_LONGEST_ECHO]}{_CUT}"


def _json_size(value: Any) -> int:
    """Bytes of the value as JSON in its longest form, with all but ASCII escaped."""
    return len(json.dumps(value)) + len(", ")


def _that_fit(items: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first items, as many as have room in one answer."""
    fitting, room = [], MAX_DETAIL_BYTES - len('{"detail": []}')
    for item in items:
        room -= _json_size(item)
        if room < 0:
            break
        fitting.append(item)
    return fitting
