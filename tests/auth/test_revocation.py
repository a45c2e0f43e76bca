"""A key that is revoked in the middle of its requests: what has begun with it comes to nothing."""

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path

import httpx
from api_keys import add_key, by_key, keys_of
from queue_calls import RUN, SUBMIT
from servers import APP, request_of, serving, settings_in
from starlette.types import Message
from upload_calls import INITIATE_MULTIPART, UPLOAD, initiate, kept, put, upload

from server.config.settings import Settings


async def revoke(client: httpx.AsyncClient, settings: Settings, key: str) -> None:
    """Revoke the key, and wait until the server knows."""
    with keys_of(settings) as store:
        store.revoke(key.partition(":")[0])
    path = f"/queue/{APP}/requests/00000000-0000-4000-8000-000000000000"
    while (await client.get(path, headers=by_key(key))).status_code != 401:
        await asyncio.sleep(0.02)


async def test_nothing_that_comes_with_it_is_committed(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    key = add_key(settings)
    headers = by_key(key)
    begun, is_revoked = 0, asyncio.Event()

    async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
        nonlocal begun
        begun += 1
        yield data[:1]
        await is_revoked.wait()
        yield data[1:]

    async with serving(settings) as client:
        put_to, _ = await initiate(client, headers=headers)
        parts_url, _ = await initiate(client, INITIATE_MULTIPART, headers=headers)
        part = (await put(client, f"{parts_url}/1", b"x")).json()
        before = kept(tmp_path)
        wanted = json.dumps(request_of()).encode()
        requests = [
            *(
                client.post(path, content=in_pieces(wanted), headers=headers)
                for path in (SUBMIT, RUN, f"{RUN}/stream")
            ),
            client.post(UPLOAD, content=in_pieces(b"a file"), headers=headers),
            client.put(put_to, content=in_pieces(b"a file")),
            client.put(f"{parts_url}/2", content=in_pieces(b"a part")),
            client.post(
                f"{parts_url}/complete", content=in_pieces(json.dumps({"parts": [part]}).encode())
            ),
        ]
        answering = [asyncio.create_task(request) for request in requests]
        while begun < len(answering):
            await asyncio.sleep(0.01)
        await revoke(client, settings, key)
        is_revoked.set()
        answers = await asyncio.gather(*answering)

    assert [answer.status_code for answer in answers] == [401] * len(answering)
    assert all("revoked" in answer.json()["detail"] for answer in answers)
    with closing(sqlite3.connect(settings.data / "jobs.sqlite3")) as db:
        [rows] = db.execute("SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM artifacts)")
    assert (rows, kept(tmp_path)) == ((0,), before)


async def body_of(
    client: httpx.AsyncClient, url: str, key: str, after_first: Callable[[], Awaitable[None]]
) -> list[Message]:
    """The pieces of the answer to a GET; the second is taken after `after_first`."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    request = client.build_request("GET", url, headers=by_key(key))
    pieces: list[Message] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            pieces.append(message)
            if len(pieces) == 1:
                await after_first()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": request.url.path,
        "raw_path": request.url.raw_path,
        "query_string": b"",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    await transport.app(scope, receive, send)
    return pieces


async def test_a_file_and_an_output_that_are_being_sent_are_cut_off(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on", files_auth="key")
    mine, also_mine = add_key(settings), add_key(settings)
    async with serving(settings) as client:
        file = await upload(client, os.urandom(300_000), **by_key(mine))
        wanted = request_of(sync_mode=True)
        job = await client.post(RUN, json=wanted, headers=by_key(also_mine))
        output = f"/queue/{APP}/requests/{job.headers['x-fal-request-id']}"
        for url, key in ((file, mine), (output, also_mine)):

            async def nothing() -> None:
                pass

            whole = await body_of(client, url, key, nothing)
            assert (len(whole) > 2, whole[-1].get("more_body", False)) == (True, False)
            cut = await body_of(client, url, key, lambda: revoke(client, settings, key))  # noqa: B023
            assert [piece["more_body"] for piece in cut] == [True]
