"""What can go wrong with a request: each exception is also the answer that its caller gets.

fal has two shapes of error. Where the input is at fault, `detail` is a list of items that name the
field; elsewhere it is a sentence, with `error_type` beside it. Routes raise these exceptions, and
the app makes responses of them.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

TRY_AGAIN_LATER = {"retry-after": "10"}


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


class UnknownEndpoint(RequestError):
    """There is no endpoint of that id, or its weights are not here."""

    status = 404
    message = "There is no endpoint {!r} on this server."


class McpMissing(RequestError):
    """The package that speaks the Model Context Protocol is not installed."""

    status = 404
    message = "This server was installed without MCP: pip install 'cosmos-serve[mcp]' adds it."


class UnknownJob(RequestError):
    """There is no request of that id, or it is somebody else's."""

    status = 404
    message = "Request not found"


class NoPreview(RequestError):
    """The request has no preview: it does not run, or none is made yet, or none ever is."""

    status = 404
    message = "This request has no preview now"


class OutputExpired(RequestError):
    """The request succeeded, and its files have reached the end of their lifetime."""

    status = 404
    message = "The files of this request have expired"


class UnknownVideo(RequestError):
    """There is no video of that id, or it is somebody else's."""

    status = 404
    message = "Video not found"


class NoContent(RequestError):
    """The video has no such file, for which the argument is the reason."""

    status = 404


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
    """The body without its files has more bytes than the limit."""

    status = 413
    message = (
        "The request without its file is larger than {:,} bytes, which is the limit for the rest."
    )


class UnsupportedCoding(BadRequest):
    """The body is compressed, or in frames, by a Content-Encoding that is not undone."""

    status = 415
    message = (
        "The request's body is encoded as {}, which this server does not undo: send it as it is, "
        "without Content-Encoding."
    )
    headers: Mapping[str, str] = {"accept-encoding": "identity"}


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
        "The key {!r} has {:,} requests waiting, which is its limit. Try again later; "
        "COSMOS_KEY_QUEUE_LIMIT or `cosmos-serve keys limits` sets it."
    )
    headers = TRY_AGAIN_LATER


class TooManySubmits(RequestError):
    """This key sent as many requests within a minute as its limit allows.

    The last argument is the whole seconds after which one more is accepted.
    """

    status = 429
    message = (
        "The key {!r} has sent {:,} requests within a minute, which is its limit. Try again in "
        "{} seconds; COSMOS_KEY_SUBMITS_PER_MINUTE or `cosmos-serve keys limits` sets it."
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
        "Too many large requests are coming in at once. Try again later, or upload the file and "
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
        "They go when they expire; COSMOS_KEY_STORAGE_LIMIT_MIB or `cosmos-serve keys limits` sets "
        "the limit."
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


class FilesAway(Shortage):
    """The store of files, which is another machine's, can be used neither to read nor to write."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class DatabaseDamaged(InternalError):
    """A part of the database's file cannot be read."""

    message = (
        "The server's database is damaged. Its operator has to stop the server and put a copy of "
        "jobs.sqlite3 back into the data folder, or what `sqlite3 jobs.sqlite3 .recover` can "
        "still read of it."
    )
