"""Answers that hold a video: made while they are sent, and counted as fetched when they were."""

import asyncio
import base64
import json
import time
import tracemalloc
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from job_fixtures import sql
from queue_calls import RUN, result_of, submit, until
from servers import APP, request_of, serving, settings_in
from starlette.types import Message

from server.api.results import PIECE_BYTES, ClosingResponse, CompletionResponse, Output
from server.config.settings import Settings


def seconds_left(settings: Settings, job: str) -> float:
    """How long the job is still kept."""
    query = "SELECT expires_at FROM jobs WHERE id = ?"
    [(expires_at,)] = sql(settings.data / "jobs.sqlite3", query, job)
    return float(expires_at) - time.time()


@pytest.mark.parametrize("size", [0, 1, 2, 3, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES + 5])
async def test_the_base64_of_a_video_comes_in_pieces_that_fit(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "video").write_bytes(data[:size])
    file = (tmp_path / "video").open("rb")
    parts = {"head": b'{"url":"', "tail": b'"}'}
    output = Output(status=200, headers={}, video=file, video_size=size, **parts)

    pieces = [piece async for piece in output.pieces()]

    body = b"".join(pieces)
    assert base64.b64decode(json.loads(body)["url"]) == data[:size]
    assert len(body) == output.size
    assert max(len(piece) for piece in pieces) <= PIECE_BYTES * 4 / 3


async def test_memory_never_holds_the_video(tmp_path: Path) -> None:
    size = 256 * PIECE_BYTES
    with (tmp_path / "video").open("wb") as file:
        file.truncate(size)
    video = (tmp_path / "video").open("rb")
    output = Output(status=200, headers={}, head=b"", video=video, video_size=size)
    tracemalloc.start()
    try:
        num_bytes = 0
        async for piece in output.pieces():
            num_bytes += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert num_bytes == output.size
    assert peak < size / 8


async def test_sync_mode_gives_the_video_twice_and_then_for_ten_minutes(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        job = await submit(client, "bytes 1000000", sync_mode=True, seed=7)
        await until(client, job, "COMPLETED")
        assert seconds_left(settings, job) > 80_000

        first = await result_of(client, job)
        assert 590 < seconds_left(settings, job) <= 600
        again = await result_of(client, job)

        assert first.content == again.content
        assert int(first.headers["content-length"]) == len(first.content)
        assert first.headers["x-fal-billable-units"] == "1"
        assert first.headers["content-type"] == "application/json"
        by_url = (await client.post(RUN, json=request_of("bytes 1000000", seed=7))).json()
        kind, _, encoded = first.json()["video"]["url"].partition(",")
        assert kind == "data:video/mp4;base64"
        assert base64.b64decode(encoded) == (await client.get(by_url["video"]["url"])).content
        assert first.json() | {"video": None} == by_url | {"video": None}
        assert set(first.json()["video"]) == set(by_url["video"])


async def test_a_run_that_was_answered_counts_as_fetched(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        answer = await client.post(RUN, json=request_of(sync_mode=True))

        assert seconds_left(settings, answer.headers["x-fal-request-id"]) <= 600


async def test_a_video_that_is_removed_under_the_question_is_gone(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        job = await submit(client, sync_mode=True)
        await until(client, job, "COMPLETED")
        for file in (settings.data / "files").glob("*/*"):
            file.unlink()

        answer = await client.get(f"/queue/{APP}/requests/{job}")

        assert answer.status_code == 404


class Ends:
    """What a delivery said of its end."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def delivered(self) -> None:
        self.said.append("delivered")

    def on_disconnect(self) -> None:
        self.said.append("cut off")


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_delivery_knows_whether_it_arrived(spec_version: str, is_whole: bool) -> None:
    ends, gone = Ends(), asyncio.Event()

    async def content() -> AsyncGenerator[bytes, None]:
        yield b"first"
        if not is_whole:
            gone.set()
            await asyncio.sleep(0.01)
        yield b"second"

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if gone.is_set():
            raise OSError("the connection is closed")

    delivery = CompletionResponse(
        content(), delivered=ends.delivered, on_disconnect=ends.on_disconnect
    )
    scope = {"type": "http", "asgi": {"spec_version": spec_version}}
    try:
        await delivery(scope, receive, send)
    except Exception:
        assert spec_version == "2.4", "the older way is to cancel what sends"

    assert ends.said == (["delivered"] if is_whole else ["cut off"])


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_what_makes_the_body_is_closed_as_the_answer_ends(spec_version: str) -> None:
    """An answer is cut off while it is sent, and nothing is left to the garbage collector."""
    ended = []

    async def content() -> AsyncGenerator[bytes, None]:
        try:
            yield b"first"
            yield b"second"
        finally:
            ended.append(True)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        if message.get("body"):
            raise OSError("the connection is closed")

    made = content()
    scope = {"type": "http", "asgi": {"spec_version": spec_version}}
    with pytest.raises(Exception):  # noqa: B017 - in a group for the older way
        await ClosingResponse(made)(scope, receive, send)

    assert ended == [True]
