"""A server on loopback that answers as a test tells it, and fetchers that may reach it."""

import asyncio
import io
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_network

from server.outbound.fetch import Fetcher, Resolver, resolve_by_system

LOOPBACK = (ip_network("127.0.0.0/8"),)
NAME = "pictures.example"
NO_ROOTS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody, and is made faster than one that reads the public roots."""

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes = b"picture", *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return answer(b"", f"Location: {location}", status=status)


@dataclass
class Site:
    """A server on loopback: each path answers with bytes, or by a script."""

    port: int = 0
    answers: dict[str, bytes | Script] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # A fetcher that has heard enough hangs up.
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = re.search(r"(?im)^content-length: *(\d+)", request)
        self.bodies.append(await reader.readexactly(int(length[1])) if length else b"")
        self.requests.append(request)
        answered = self.answers[request.split()[1]]
        if isinstance(answered, bytes):
            writer.write(answered)
            await writer.drain()
        else:
            await answered(writer)


async def running(site: Site, tls: ssl.SSLContext | None) -> AsyncIterator[Site]:
    handlers: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(site.handle(reader, writer))
        handlers.add(task)
        task.add_done_callback(handlers.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    site.port = server.sockets[0].getsockname()[1]
    async with server:
        yield site
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


def resolving(*answers: Sequence[str]) -> Resolver:
    """A resolver that gives these answers in turn, and the last one for ever."""
    left = list(answers)

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return resolve


async def fetch(fetcher: Fetcher, url: str, *, max_bytes: int, deadline_s: float = 30.0) -> bytes:
    """The bytes of a download."""
    file = io.BytesIO()
    await fetcher.download(url, file, max_bytes=max_bytes, deadline_s=deadline_s)
    return file.getvalue()


def fetcher(
    *answers: Sequence[str],
    ssl_context: ssl.SSLContext = NO_ROOTS,
    contact: str | None = None,
) -> Fetcher:
    """A fetcher that may reach loopback, where `answers` are what DNS says of any name."""
    return Fetcher(
        allow_nets=LOOPBACK,
        contact=contact,
        retry_s=0.0,
        resolve=resolving(*answers) if answers else resolve_by_system,
        ssl_context=ssl_context,
    )
