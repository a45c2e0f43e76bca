"""Bodies of requests: what they may cost in memory and in time."""

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import psutil
import pytest
from fastapi import Request
from queue_calls import RUN, SUBMIT
from raw_http import connected
from servers import (
    COMMAND,
    data_uri,
    picture,
    request_of,
    serving,
    settings_in,
    start_server,
)
from starlette.types import Message

from server.api.bodies import LARGE_BYTES, MIN_BYTES_PER_S, BodyReader
from server.errors import BodyTooLarge, RequestTooSlow, TooManyLargeBodies, UnsupportedCoding
from server.fal.invalid_input import MAX_DETAIL_BYTES
from server.inputs.submit import MAX_TEXT_BYTES

MANY = 2**30
MIB = 1024 * 1024


class Sender:
    """A caller that sends these chunks, and waits before each of them."""

    def __init__(
        self,
        *chunks: bytes,
        wait: Callable[[], Awaitable[object]] | None = None,
        coding: str | None = None,
    ) -> None:
        self._left = list(chunks)
        self._headers = [] if coding is None else [(b"content-encoding", coding.encode())]
        self._wait = wait

    @property
    def left(self) -> int:
        return len(self._left)

    @property
    def request(self) -> Request:
        return Request({"type": "http", "method": "POST", "headers": self._headers}, self._receive)

    async def _receive(self) -> Message:
        if self._wait is not None:
            await self._wait()
        chunk = self._left.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(self._left)}


def large(num_chunks: int = 10) -> Sender:
    """It is known to be large with its second chunk."""
    return Sender(*[bytes(LARGE_BYTES // 2 + 1)] * num_chunks)


def after(seconds: float) -> Callable[[], Awaitable[object]]:
    return lambda: asyncio.sleep(seconds)


async def never() -> None:
    await asyncio.Event().wait()


async def until_it_rests(sender: Sender) -> None:
    left = None
    while left != sender.left:
        left = sender.left
        await asyncio.sleep(0.02)


async def read(
    bodies: BodyReader, sender: Sender, *, key_id: str | None = None, max_bytes: int = MANY
) -> bytes:
    async with bodies.read(sender.request, key_id=key_id, max_bytes=max_bytes) as body:
        return body


async def test_a_body_is_read_whole() -> None:
    assert await read(BodyReader(timeout_s=30), Sender(b"ab", b"", b"c")) == b"abc"


FRAMED = b"3;chunk-signature=" + b"0" * 64 + b"\r\nabc\r\n"


@pytest.mark.parametrize("coding", ["", "identity", "aws-chunked", "utf-8"])
async def test_a_content_encoding_that_changes_no_byte_is_only_a_label(coding: str) -> None:
    assert await read(BodyReader(timeout_s=30), Sender(b"ab", b"c", coding=coding)) == b"abc"


@pytest.mark.parametrize(
    ("coding", "body"),
    [("gzip", b"abc"), ("identity, BR", b"abc"), ("aws-chunked", FRAMED)],
)
async def test_a_body_that_is_not_as_it_is_meant_is_refused(coding: str, body: bytes) -> None:
    sender = Sender(body[:1], body[1:], coding=coding)

    with pytest.raises(UnsupportedCoding) as refused:
        await read(BodyReader(timeout_s=30), sender)

    assert refused.value.headers["accept-encoding"] == "identity"


async def test_nothing_is_read_beyond_the_limit() -> None:
    sender = Sender(b"1234", b"5", b"6", b"7")

    with pytest.raises(BodyTooLarge, match="5 bytes"):
        await read(BodyReader(timeout_s=30), sender, max_bytes=5)

    assert sender.left == 1
    assert await read(BodyReader(timeout_s=30), Sender(b"12345"), max_bytes=5) == b"12345"


async def test_a_large_body_waits_for_its_place_with_little_of_it_read() -> None:
    bodies, waiting = BodyReader(timeout_s=30, large_at_once=1), large()
    async with bodies.read(large().request, key_id=None, max_bytes=MANY):
        second = asyncio.create_task(read(bodies, waiting))
        await until_it_rests(waiting)
        assert waiting.left == 8
        # Small ones go past it.
        assert await read(bodies, Sender(bytes(LARGE_BYTES))) == bytes(LARGE_BYTES)

    assert len(await second) > LARGE_BYTES


async def test_large_bodies_of_one_key_leave_room_for_those_of_others() -> None:
    bodies = BodyReader(timeout_s=0.05, large_at_once=2)
    async with bodies.read(large().request, key_id="mine", max_bytes=MANY):
        with pytest.raises(TooManyLargeBodies):
            await read(bodies, large(), key_id="mine")
        assert await read(bodies, large(), key_id="yours")


async def test_a_body_for_which_there_is_no_place_in_time_is_sent_away() -> None:
    bodies = BodyReader(timeout_s=0.05, large_at_once=1)
    async with bodies.read(large().request, key_id=None, max_bytes=MANY):
        with pytest.raises(TooManyLargeBodies):
            await read(bodies, large())

    assert await read(bodies, large())


async def test_a_caller_who_pauses_loses_its_place() -> None:
    bodies = BodyReader(timeout_s=0.05, large_at_once=1)
    chunks = [bytes(LARGE_BYTES)] * 3
    stalled = Sender(*chunks, wait=lambda: never() if stalled.left == 1 else asyncio.sleep(0))

    with pytest.raises(RequestTooSlow, match=r"0\.05 seconds"):
        await read(bodies, stalled)

    assert await read(bodies, large())


async def test_a_caller_who_drips_is_given_up() -> None:
    with pytest.raises(RequestTooSlow):
        await read(BodyReader(timeout_s=0.2), Sender(*[b"x"] * 1000, wait=after(0.02)))


async def test_a_caller_who_is_slow_but_not_too_slow_is_heard_to_the_end() -> None:
    # Twice as long as a caller may pause, at many times the speed that is asked for.
    chunks = [bytes(MIN_BYTES_PER_S // 2)] * 20
    sender = Sender(*chunks, wait=after(0.05))

    assert await read(BodyReader(timeout_s=0.5), sender) == b"".join(chunks)


async def test_time_that_we_take_ourselves_does_not_count() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in BodyReader(timeout_s=0.1).chunks(Sender(b"a", b"b", b"c").request):
            yield chunk
            await asyncio.sleep(0.2)

    assert b"".join([chunk async for chunk in chunks()]) == b"abc"


@pytest.mark.parametrize("path", [RUN, SUBMIT])
async def test_a_request_may_have_little_besides_its_picture(tmp_path: Path, path: str) -> None:
    """The rest goes into a row of the table."""
    async with serving(settings_in(tmp_path)) as client:
        for name in ("prompt", "image_url", "something"):
            fields = {name: "x" * MAX_TEXT_BYTES}
            answer = await client.post(path, json=request_of() | fields)
            assert answer.status_code == 413, name
            assert "1,048,576 bytes" in answer.json()["detail"]
        with_picture = request_of("x" * (MAX_TEXT_BYTES // 2))
        with_picture["image_url"] = data_uri(picture() + bytes(MAX_TEXT_BYTES))
        assert (await client.post(SUBMIT, json=with_picture)).status_code == 200


LONG = "\N{GRINNING FACE}" * 300
INVALID = {
    "wide and nested": [[[["x" * 250] * 60] * 4] * 4] * 4,
    "deep": "[" * 900 + "]" * 900,
    "many small values": [[]] * 100_000,
    "long names and texts": {f"{number}{LONG}": LONG for number in range(300)},
    "a long number": [10**4000] * 100,
}
"""Each within the limit for the text of a request."""


async def test_what_an_invalid_body_leaves_behind_is_small(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        for name, value in INVALID.items():
            body = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for sent in (body, f'{{"prompt": {body}, "seed": -9}}'):
                submitted = await client.post(SUBMIT, content=sent.encode())
                assert submitted.status_code == 200, name
                for answer in (
                    await client.get(submitted.json()["response_url"]),
                    await client.post(RUN, content=sent.encode()),
                ):
                    assert answer.status_code == 422, name
                    assert answer.json()["detail"][0]["msg"]
                    assert len(answer.content) <= MAX_DETAIL_BYTES, name
    with closing(sqlite3.connect(settings.data / "jobs.sqlite3")) as db:
        [(most, count)] = db.execute("SELECT max(length(error)), count(*) FROM jobs")
    assert (most <= MAX_DETAIL_BYTES, count) == (True, 2 * len(INVALID))


async def test_an_error_of_many_items_is_small(client: httpx.AsyncClient) -> None:
    begun = await client.post("/files/upload/multipart")
    complete = f"/files/upload/{begun.json()['uploadId']}/complete"

    answer = await client.post(complete, json={"parts": [{"partNumber": LONG}] * 1000})

    assert answer.status_code == 422
    assert 1 < len(answer.json()["detail"]) < 2000
    assert len(answer.content) <= MAX_DETAIL_BYTES


@pytest.mark.parametrize("path", [RUN, SUBMIT])
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 25 * MIB,
        b'{"a":[' + b"[]," * 8 * MIB + b'[]],"b":1}',
        b'{"image_url":"data:,' + b"A" * 2 * MIB + b'","a":[' + b'"",' * MIB + b'""]}',
        b'{"prompt":"' + b"x" * 25 * MIB + b'","num_frames":1}',
        b'"\\"' * 5 * MIB,
    ],
    ids=["nested", "outside of strings", "besides a picture", "a prompt", "no JSON"],
)
async def test_a_body_with_too_much_text_is_not_parsed(
    client: httpx.AsyncClient, path: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.inputs.submit.parse_request", lambda *_: pytest.fail("parsed"))

    answer = await client.post(path, content=body)

    assert answer.status_code == 413
    assert "1,048,576 bytes" in answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/rest/tokens", "/rest/storage/upload/initiate", "/rest/storage/upload/initiate/"]
)
async def test_requests_without_pictures_have_small_bodies(
    client: httpx.AsyncClient, path: str
) -> None:
    answer = await client.post(path, content=bytes(2 * MIB + 1))

    assert answer.status_code == 413


def test_runs_that_wait_do_not_hold_their_bodies(tmp_path: Path) -> None:
    size, count = 3 * MIB, 20
    # Large blocks go back to the system at once, so that it can be seen.
    server = start_server(tmp_path, program=[COMMAND], MALLOC_MMAP_THRESHOLD_=str(MIB))
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    image_url = data_uri(picture() + bytes(size))
    with ExitStack() as stack:
        stack.callback(server.end)
        for number in range(count):
            body = json.dumps(request_of("sleep 60", seed=number, image_url=image_url)).encode()
            head = f"POST {RUN} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
            connection = stack.enter_context(connected(server.http))
            connection.sendall(head.encode() + body)
        with closing(sqlite3.connect(tmp_path / "data" / "jobs.sqlite3")) as db:
            while db.execute("SELECT count(*) FROM jobs").fetchone() != (count,):
                time.sleep(0.02)
        grown = process.memory_info().rss - before

    # Held once in base64, as they came, they are a third larger than this.
    assert grown < count * size
