"""Server-sent events: each a line of JSON, with a comment now and then to keep the way open."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

PING_S = 15.0
"""Clients and proxies give up on a stream that is silent for a minute or more."""

LOOK_S = 2.0
"""How often a silent stream asks whether it may go on."""

MEDIA_TYPE = "text/event-stream"
HEADERS = {
    "cache-control": "no-store",
    # For nginx: each event is to be passed on at once.
    "x-accel-buffering": "no",
}

PING = b": ping\n\n"
_BEGIN, _END = b"data: ", b"\n\n"


def event(data: bytes, name: bytes | None = None) -> bytes:
    """One event; `data` is a line of JSON. A browser tells those with a name by it."""
    head = b"" if name is None else b"event: " + name + b"\n"
    return head + _BEGIN + data + _END


async def event_in_pieces(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """One event whose line comes in pieces."""
    yield _BEGIN
    async for piece in pieces:
        yield piece
    yield _END


async def merged(
    main: AsyncGenerator[bytes, None], other: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """The events of both as they come, until `main` ends. `other` does not end by itself."""
    async with contextlib.aclosing(main), contextlib.aclosing(other):
        coming = {each: asyncio.ensure_future(anext(each)) for each in (main, other)}
        try:
            while True:
                await asyncio.wait(coming.values(), return_when=asyncio.FIRST_COMPLETED)
                for each in (main, other):
                    if coming[each].done():
                        try:
                            yield coming[each].result()
                        except StopAsyncIteration:
                            return
                        coming[each] = asyncio.ensure_future(anext(each))
        finally:
            for task in coming.values():
                task.cancel()
            await asyncio.gather(*coming.values(), return_exceptions=True)


async def _always() -> bool:
    return True


async def with_pings(
    events: AsyncGenerator[bytes, None],
    every_s: float = PING_S,
    *,
    may_go_on: Callable[[], Awaitable[bool]] = _always,
) -> AsyncGenerator[bytes, None]:
    """The events, and a comment after every so many seconds without one.

    The stream ends where it may not go on: it is asked before each event, and meanwhile.
    """
    silent_s, look_s = 0.0, min(every_s, LOOK_S)
    async with contextlib.aclosing(events):
        coming: asyncio.Future[bytes] | None = None
        try:
            while await may_go_on():
                coming = coming or asyncio.ensure_future(anext(events))
                if not (await asyncio.wait({coming}, timeout=look_s))[0]:
                    silent_s += look_s
                    if silent_s >= every_s:
                        silent_s = 0.0
                        yield PING
                    continue
                silent_s = 0.0
                try:
                    sent, coming = coming.result(), None
                except StopAsyncIteration:
                    return
                yield sent
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
