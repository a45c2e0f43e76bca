"""Read the bodies of requests: bounded in size, in time, and in how many are large at once.

A body that is large takes a place before more than its beginning is read; until there is one,
TCP holds its caller back. It has the place until what was to be done with it is done. Keys take
turns, and none has all the places.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import Request

from server.errors import BodyTooLarge, RequestTooSlow, TooManyLargeBodies, UnsupportedCoding
from server.outbound.content_codings import (
    AWS_CHUNKED,
    FRAME_BYTES,
    applied,
    codings_of,
    is_framed,
)
from server.tasks import FairSemaphore

LARGE_BYTES = 256 * 1024
LARGE_AT_ONCE = 4
"""The largest that we take was measured to need 150 MiB until it is accepted."""

MIN_BYTES_PER_S = 32 * 1024
"""Slower callers are given up in the end: they hold a place that others wait for."""


class BodyReader:
    """The bodies that one server reads. A caller may pause for `timeout_s` seconds."""

    def __init__(self, *, timeout_s: float, large_at_once: int = LARGE_AT_ONCE) -> None:
        self._timeout_s = timeout_s
        self._places = FairSemaphore(large_at_once)

    @asynccontextmanager
    async def read(
        self, request: Request, *, key_id: str | None, max_bytes: int
    ) -> AsyncIterator[bytes]:
        """The whole body, to be kept no longer than the block. `key_id` is whose request it is.

        Raises:
            BodyTooLarge: it has more than `max_bytes` bytes.
            RequestTooSlow: it does not come in time.
            TooManyLargeBodies: it is large, and there was no place for it in time.
        """
        chunks, size = [], 0
        async with AsyncExitStack() as place:
            async for chunk in self.chunks(request):
                is_small = size <= LARGE_BYTES
                size += len(chunk)
                if size > max_bytes:
                    raise BodyTooLarge(max_bytes)
                chunks.append(chunk)
                if is_small and size > LARGE_BYTES:
                    await self._take(place, key_id)
            body = b"".join(chunks)
            chunks.clear()
            yield body

    async def chunks(self, request: Request) -> AsyncIterator[bytes]:
        """The body as it comes. Only the time counts in which we wait for the caller.

        Raises:
            RequestTooSlow: a pause is longer than `timeout_s`, or all of them together are longer
                than that and what `MIN_BYTES_PER_S` takes.
            UnsupportedCoding: the bytes are not those of the body itself.
        """
        codings = codings_of(request.headers.getlist("content-encoding"))
        if found := applied(codings):
            raise UnsupportedCoding(", ".join(sorted(found)))
        start = b""
        async for chunk in self._timed_chunks(request):
            if len(start) < FRAME_BYTES:
                start += chunk[:FRAME_BYTES]
                if is_framed(codings, start):
                    raise UnsupportedCoding(AWS_CHUNKED)
            yield chunk

    async def _timed_chunks(self, request: Request) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        stream = request.stream()
        size, waited_s = 0, 0.0
        while True:
            began = clock()
            left_s = self._timeout_s + size / MIN_BYTES_PER_S - waited_s
            try:
                async with asyncio.timeout(min(left_s, self._timeout_s)):
                    chunk = await anext(stream, None)
            except TimeoutError as error:
                raise RequestTooSlow(self._timeout_s) from error
            if chunk is None:
                return
            waited_s += clock() - began
            size += len(chunk)
            yield chunk

    async def _take(self, place: AsyncExitStack, key_id: str | None) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await place.enter_async_context(self._places.place(key_id))
        except TimeoutError as error:
            raise TooManyLargeBodies from error
