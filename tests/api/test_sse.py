"""Server-sent events: what keeps a silent stream open."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from server.api.sse import PING, PING_S, event, event_in_pieces, merged, with_pings


async def test_a_silent_stream_is_kept_open_by_comments() -> None:
    go_on = asyncio.Event()

    async def events() -> AsyncGenerator[bytes, None]:
        yield event(b"1")
        await go_on.wait()
        yield event(b"2")

    sent = []
    async for piece in with_pings(events(), 0.001):
        sent.append(piece)
        if sent.count(PING) == 3:
            go_on.set()

    assert sent[0] == b"data: 1\n\n"
    assert sent[-1] == b"data: 2\n\n"
    assert set(sent[1:-1]) == {PING}
    assert PING.startswith(b":"), "clients ignore a comment"
    assert PING_S <= 30


async def test_what_makes_the_events_is_ended_with_the_stream() -> None:
    ended = asyncio.Event()

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            yield event(b"1")
            await asyncio.Event().wait()
        finally:
            ended.set()

    stream = with_pings(events(), 0.001)
    assert [await anext(stream), await anext(stream)] == [b"data: 1\n\n", PING]
    await stream.aclose()

    assert ended.is_set()


async def test_an_error_of_what_makes_the_events_ends_the_stream() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield event(b"1")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        [piece async for piece in with_pings(events())]


async def test_two_sources_are_one_stream_until_the_first_ends() -> None:
    shown, ended = asyncio.Event(), asyncio.Event()

    async def main() -> AsyncGenerator[bytes, None]:
        yield event(b"1")
        await shown.wait()
        yield event(b"2")

    async def other() -> AsyncGenerator[bytes, None]:
        try:
            yield event(b"a", b"preview")
            await asyncio.Event().wait()
        finally:
            ended.set()

    sent = []
    async for piece in merged(main(), other()):
        sent.append(piece)
        if piece.startswith(b"event: "):
            shown.set()

    assert sent == [event(b"1"), b"event: preview\ndata: a\n\n", event(b"2")]
    assert ended.is_set()


async def test_an_event_may_come_in_pieces() -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b'{"a":'
        yield b"1}"

    assert b"".join([piece async for piece in event_in_pieces(pieces())]) == event(b'{"a":1}')
