"""A disk with too little space left: nothing more is let in, and what is here can be had."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from queue_calls import RUN, SUBMIT, result_of, status_of, submit
from servers import BASE_URL, picture, request_of, serving, settings_in
from upload_calls import upload

MORE_THAN_ANY_DISK_MIB = 2**40


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, str, str]]:
    """A server on a disk that has become too full, with a job and the URL of an upload."""
    async with serving(settings_in(tmp_path)) as client:
        job = await submit(client)
        await result_of(client, job)
        initiate = await client.post(
            "/rest/storage/upload/initiate",
            json={"file_name": "car.png", "content_type": "image/png"},
        )
    settings = settings_in(tmp_path, min_free_disk_mib=MORE_THAN_ANY_DISK_MIB)
    async with serving(settings) as client:
        yield client, job, initiate.json()["upload_url"].removeprefix(BASE_URL)


async def test_nothing_more_is_let_in(full: tuple[httpx.AsyncClient, str, str]) -> None:
    client, _, upload_url = full
    refused = [
        await client.post(SUBMIT, json=request_of()),
        await client.post(RUN, json=request_of()),
        await client.post(f"{RUN}/stream", json=request_of()),
        await client.post("/rest/storage/upload/initiate", json={}),
        await client.post("/rest/storage/upload/initiate-multipart", json={}),
        await client.put(upload_url, content=picture()),
    ]

    for answer in refused:
        assert answer.status_code == 507, answer.request.url
        assert "COSMOS_MIN_FREE_DISK_MIB" in answer.json()["detail"]
        assert answer.headers["retry-after"]


async def test_what_is_here_can_be_had(full: tuple[httpx.AsyncClient, str, str]) -> None:
    client, job, _ = full

    result = await result_of(client, job)

    assert result.status_code == 200
    assert (await client.get(result.json()["video"]["url"])).status_code == 200


async def test_with_room_again_all_is_well(tmp_path: Path) -> None:
    full = settings_in(tmp_path, min_free_disk_mib=MORE_THAN_ANY_DISK_MIB)
    async with serving(full) as client:
        assert (await client.post(SUBMIT, json=request_of())).status_code == 507

    async with serving(settings_in(tmp_path)) as client:
        assert await upload(client, picture())
        assert (await client.post(RUN, json=request_of())).status_code == 200


async def test_what_was_accepted_waits_until_there_is_room(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        await client.post("/admin/queue/pause")
        job = await submit(client)

    full = settings_in(tmp_path, min_free_disk_mib=MORE_THAN_ANY_DISK_MIB)
    async with serving(full) as client:
        await client.post("/admin/queue/resume")
        while "waits until there is room" not in (await status_of(client, job, logs="1")).text:
            await asyncio.sleep(0.02)
        assert (await status_of(client, job)).json()["status"] == "IN_QUEUE"

    async with serving(settings_in(tmp_path)) as client:
        assert (await result_of(client, job)).status_code == 200
