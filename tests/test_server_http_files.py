"""The files of results, and health."""

import hashlib

import httpx
import pytest
from queue_calls import RUN
from servers import picture, request_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_file_is_served_whole_in_part_and_by_its_head(client: httpx.AsyncClient) -> None:
    url = (await client.post(RUN, json=request_of("bytes 3000000"))).json()["video"]["url"]
    whole = await client.get(url)
    head = await client.head(url)
    part = await client.get(url, headers={"range": "bytes=1000000-1000009"})
    beyond = await client.get(url, headers={"range": "bytes=3000000-"})

    assert (whole.status_code, len(whole.content)) == (200, 3_000_000)
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["content-type"] == "video/mp4"
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == "3000000"
    assert part.status_code == 206
    assert part.content == whole.content[1_000_000:1_000_010]
    assert beyond.status_code == 416


async def test_a_file_is_not_served_under_another_name(client: httpx.AsyncClient) -> None:
    url = (await client.post(RUN, json=request_of())).json()["video"]["url"]

    assert (await client.get(url.replace("video.mp4", "page.html"))).status_code == 404


async def test_prepared_pictures_have_no_url(client: httpx.AsyncClient) -> None:
    await client.post(RUN, json=request_of())
    sent = f"image-{hashlib.sha256(picture()).hexdigest()}"

    assert (await client.get(f"/files/{sent}/image")).status_code == 404


async def test_health_says_that_the_process_lives_and_a_worker_is_loaded(
    client: httpx.AsyncClient,
) -> None:
    await client.post(RUN, json=request_of())
    live, ready = await client.get("/health/live"), await client.get("/health/ready")

    assert (live.status_code, live.json()) == (200, {"status": "live"})
    assert ready.status_code == 200
    assert ready.json()["slots"][0]["name"] == "cpu"
