"""uvicorn's HTTP with bounds: on what a request may send before its body, on the time that it may
take over that, and on the time that it may take over an answer.

What is bounded elsewhere: the number of connections, and a caller who takes nothing at all, by
`server.connections.listener`; bodies, by `server.api.bodies` and `server.files.uploads`; a
handshake of TLS, by asyncio, which gives it a minute.
"""

import asyncio
import json
import uuid
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from server.connections.listener import Connection, Connections
from server.errors import (
    BadRequest,
    HeadersTooLarge,
    RequestError,
    RequestTooSlow,
    TooManyConnections,
)

MAX_HEAD_BYTES = 64 * 1024
"""Of the request line and the headers together; also of what a chunked body has besides data."""

LINGER_S = 1.0
"""How long a connection that was refused is read from, so that its caller can read the answer."""


class BoundedConfig(uvicorn.Config):
    """A uvicorn configuration whose connections are `BoundedHttp`."""

    def __init__(self, app: ASGIApp, connections: Connections, **options: Any) -> None:
        # WebSockets are refused by the app, in the same words whatever library is installed.
        super().__init__(app, http=BoundedHttp, ws="none", **options)
        self.shared_connections = connections


class BoundedHttp(HttpToolsProtocol):
    """One connection.

    Refusals that come before the app, or in the middle of a request, are in the same form as the
    app's, and are the last thing on their connection.
    """

    def __init__(
        self,
        config: BoundedConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._shared = config.shared_connections
        self._connection: Connection
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        # Bytes since there was a request, or a piece of a body, that anything could be done with.
        self._idle_bytes = 0
        self._complaint: RequestError | None = None
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._connection = self._shared.of(transport)
        if self._connection.is_refused:
            self._refuse(TooManyConnections(self._shared.limit))
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        # More waits to be sent than the transport holds. A caller who takes a little now and then
        # would keep the system's own deadline, which `Listener` sets, from coming.
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._shared.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._idle_bytes += len(data)
        super().data_received(data)
        if self._idle_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadersTooLarge(MAX_HEAD_BYTES))
        self._watch()

    def on_header(self, name: bytes, value: bytes) -> None:
        # Those after a chunked body could stand for ones that a proxy has looked at, or set.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            self._complaint = HeadersTooLarge(MAX_HEAD_BYTES)
            # The parser stops, and uvicorn calls `send_400_response`.
            raise self._complaint
        self._in_head = False
        self._idle_bytes = 0
        self._connection.idle_since = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._idle_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_answering or self.transport.is_closing():
            return
        if not self._in_head:
            # The rest of a body is to come, which is no pause between requests.
            self._unset_keepalive_if_required()
            self._watch()
        if not self.transport.get_write_buffer_size():
            self._connection.idle_since = self.loop.time()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        self._refuse(self._complaint or BadRequest("The request is not proper HTTP."))

    def _unsupported_upgrade_warning(self) -> None:
        # What was asked for is answered in HTTP/1.1. The parser is at its end.
        self.cycle.keep_alive = False

    def _refuse(self, error: RequestError) -> None:
        """Answer in place of the app and close; what else comes in is not looked at."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        self._unwatch()
        if self._is_answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self._in_head or self.cycle.response_started:
                # The next answer on this connection is that of another request.
                self.transport.close()
                return
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.transport.write(_rendered(error))
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._timer = self.loop.call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        """Count the time while it is the caller's turn to send."""
        if self._is_refused:
            return
        if self._is_answering:
            self._unwatch()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._shared.read_timeout_s, self._give_up)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._in_head and self._idle_bytes:
            self._refuse(RequestTooSlow(self._shared.read_timeout_s))
        else:
            # Nothing was asked, or all was answered and a body without end goes on.
            self.transport.close()


def _rendered(error: RequestError) -> bytes:
    body = json.dumps(error.body, ensure_ascii=False, separators=(",", ":")).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        "x-fal-request-id": str(uuid.uuid4()),
        **error.headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[error.status] + lines.encode("latin-1") + b"\r\n" + body
