"""Requests that httpx cannot make without a socket: odd ones, and those whose caller goes away."""

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import unquote

import httpx
from starlette.types import ASGIApp, Message, Scope


def app_of(client: httpx.AsyncClient) -> Any:
    """The app in this process that a client speaks to."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    return transport.app


def scope_of(method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, Any]:
    """A request as uvicorn hands it to an app; `target` is path and query as they are sent."""
    path, _, query = target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


async def call(app: ASGIApp, scope: Scope, *body: bytes, is_cut: bool = False) -> list[Message]:
    """What an app sends to a caller who leaves after these pieces, the last one or not."""
    left, sent = list(body), []

    async def receive() -> Message:
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": is_cut or bool(left)}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


class Connection:
    """A request that is waiting for its answer; leaving the block closes the connection."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
    ) -> None:
        self._app: ASGIApp = app_of(client)
        self._method = method
        self._path = path
        self._headers = {"host": "localhost:8000", **(headers or {})}
        # The very bytes that the client would send.
        self._body = client.build_request("POST", path, json=body).content
        self._is_sent = False
        self._gone = asyncio.Event()
        self.sent: list[Message] = []
        """What the app has sent so far."""

    @property
    def text(self) -> str:
        """The body of the answer, as far as it has come."""
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    async def __aenter__(self) -> "Connection":
        self._task = asyncio.create_task(self._call())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._gone.set()
        await self._task

    async def returned(self) -> None:
        """Wait until the app has done with it."""
        await self._task

    async def _call(self) -> None:
        headers = [(name.encode(), value.encode()) for name, value in self._headers.items()]
        scope = scope_of(self._method, self._path.encode(), headers)
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._is_sent:
            self._is_sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if not self._gone.is_set():
            self.sent.append(message)
