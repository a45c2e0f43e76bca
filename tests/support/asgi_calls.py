"""Requests whose caller goes away, which httpx cannot make without a socket."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx
from starlette.types import ASGIApp, Message


class Connection:
    """A POST that is waiting for its answer; leaving the block closes the connection."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        path: str,
        body: Any,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        transport = client._transport
        assert isinstance(transport, httpx.ASGITransport)
        self._app: ASGIApp = transport.app
        self._path = path
        self._headers = {"host": "localhost:8000", **(headers or {})}
        # The very bytes that the client would send.
        self._body = client.build_request("POST", path, json=body).content
        self._is_sent = False
        self._gone = asyncio.Event()
        self.sent: list[Message] = []
        """What the app has sent so far."""

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

    async def _call(self) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "headers": [(k.encode(), v.encode()) for k, v in self._headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
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
