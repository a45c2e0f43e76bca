"""Previews of a request that runs, over the real app with a scripted worker."""

import asyncio
import base64
import io
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from api_keys import add_key, by_key
from asgi_calls import Connection
from clips import clip
from moderation_site import moderations
from PIL import Image
from queue_calls import SUBMIT, cancel, result_of, submit, until
from servers import (
    APP,
    HEIGHT,
    WIDTH,
    data_uri,
    picture,
    request_of,
    serving,
    settings_in,
)
from workers import preview_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

NONE = {"detail": "This request has no preview now"}
RUNNING = "previews 1; wait 1"


def url_of(job: str) -> str:
    return f"/queue/{APP}/requests/{job}/preview"


async def preview_in(client: httpx.AsyncClient, job: str) -> httpx.Response:
    """The answer once there is a preview."""
    while (answer := await client.get(url_of(job))).status_code == 404:
        await asyncio.sleep(0.01)
    return answer


@pytest_asyncio.fixture(loop_scope="module")
async def running(client: httpx.AsyncClient) -> AsyncIterator[str]:
    """A job that has a preview, and waits."""
    job = await submit(client, RUNNING)
    await preview_in(client, job)
    yield job
    await cancel(client, job)
    await until(client, job, "COMPLETED")


async def test_the_preview_of_a_request_that_runs_is_an_animated_picture(
    client: httpx.AsyncClient, running: str
) -> None:
    answer = await client.get(url_of(running))

    assert (answer.status_code, answer.content) == (200, preview_of(1))
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-fal-request-id"] == running


async def test_a_preview_that_the_caller_has_is_not_sent_again(
    client: httpx.AsyncClient, running: str
) -> None:
    etag = (await client.get(url_of(running))).headers["etag"]

    for known in (etag, f'"another", W/{etag}'):
        answer = await client.get(url_of(running), headers={"if-none-match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == etag
    other = await client.get(url_of(running), headers={"if-none-match": '"another"'})
    assert other.status_code == 200


@pytest.mark.parametrize("prompt", ["previews 2", "previews 2; refuse 2", "previews 2; memory 2"])
async def test_a_request_that_has_ended_has_none(client: httpx.AsyncClient, prompt: str) -> None:
    job = await submit(client, prompt)
    await until(client, job, "COMPLETED")

    answer = await client.get(url_of(job))

    assert (answer.status_code, answer.json()) == (404, NONE)


async def test_a_request_that_is_cancelled_or_waits_has_none(client: httpx.AsyncClient) -> None:
    job = await submit(client, RUNNING)
    await preview_in(client, job)
    waiting = await submit(client)
    assert (await client.get(url_of(waiting))).json() == NONE

    await cancel(client, job)
    await until(client, job, "COMPLETED")

    assert (await client.get(url_of(job))).json() == NONE


async def test_a_preview_is_for_the_key_of_its_request(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    mine, yours = (by_key(add_key(settings)) for _ in range(2))
    async with serving(settings) as client:
        submitted = await client.post(SUBMIT, json=request_of(RUNNING), headers=mine)
        job = submitted.json()["request_id"]
        while (await client.get(url_of(job), headers=mine)).status_code != 200:
            await asyncio.sleep(0.01)

        refused = await client.get(url_of(job), headers=yours)
        nobody = await client.get(url_of(job))

    assert (refused.status_code, refused.json()) == (404, {"detail": "Request not found"})
    assert nobody.status_code == 401


async def test_a_preview_that_nobody_judged_is_not_shown(tmp_path: Path) -> None:
    """Where the server asks an endpoint about frames, it has asked about no preview."""
    async with moderations() as endpoint:
        settings = settings_in(tmp_path, guardrail=endpoint.url, fetch="off")
        async with serving(settings) as client:
            job = await submit(client, "previews 2; sleep 0.05; wait 3", num_inference_steps=3)
            while "Step 3" not in str((await until(client, job, "IN_PROGRESS"))["logs"]):
                await asyncio.sleep(0.01)
            answer = await client.get(url_of(job))
            await cancel(client, job)

    assert (answer.status_code, answer.json()) == (404, NONE)


Events = list[tuple[str, dict[str, Any]]]


async def streamed(client: httpx.AsyncClient, job: str, query: str = "") -> Events:
    """The events of a request that is cancelled once it has a preview; statuses have no name."""
    url = f"/queue/{APP}/requests/{job}/status/stream{query}"
    async with Connection(client, url, method="GET") as connection:
        await preview_in(client, job)
        while query and "event: preview" not in connection.text:
            await asyncio.sleep(0.01)
        await cancel(client, job)
        while "COMPLETED" not in connection.text:
            await asyncio.sleep(0.01)
    *events, end = connection.text.split("\n\n")
    assert end == ""
    parts = (re.fullmatch(r"(?:event: (\w+)\n)?data: (.*)", event) for event in events)
    return [(part[1] or "", json.loads(part[2])) for part in parts if part]


@pytest.mark.parametrize("query", ["?previews=1", ""])
async def test_previews_are_in_the_stream_of_those_who_ask(
    client: httpx.AsyncClient, query: str
) -> None:
    job = await submit(client, RUNNING)
    events = await streamed(client, job, query)

    assert [body for name, body in events if name == ""][-1]["status"] == "COMPLETED"
    shown = base64.b64encode(preview_of(1)).decode()
    file = {"url": f"data:image/webp;base64,{shown}", "content_type": "image/webp"}
    assert [body for name, body in events if name == "preview"] == ([file] if query else [])
    assert {name for name, _ in events} == {"", *(("prepared", "preview") if query else ())}
    assert (await result_of(client, job)).status_code == 499


HALVES = "color=red:s=96x64:r=16:d=1[a];color=blue:s=96x64:r=16:d=1[b];[a][b]concat"
RED = data_uri(picture(colour="red"))
RED_THEN_BLUE = data_uri(clip(source=HALVES))


@pytest.mark.parametrize(
    ("endpoint", "body", "field", "colour"),
    [
        ("image-to-video", {"image_url": RED}, "image_url", (255, 0, 0)),
        ("video-to-video", {"video_url": RED_THEN_BLUE}, "video_url", (0, 0, 255)),
    ],
)
async def test_what_a_video_begins_with_is_shown_as_it_was_prepared(
    client: httpx.AsyncClient,
    endpoint: str,
    body: dict[str, str],
    field: str,
    colour: tuple[int, int, int],
) -> None:
    """Of a clip the last frame."""
    asked = body | {"prompt": RUNNING, "num_inference_steps": 2}
    submitted = await client.post(f"/queue/{APP}/{endpoint}", json=asked)
    events = await streamed(client, submitted.json()["request_id"], "?previews=1")

    (prepared,) = [body for name, body in events if name == "prepared"]
    assert (prepared["field"], prepared["content_type"]) == (field, "image/webp")
    head, _, encoded = prepared["url"].partition(",")
    shown = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert (head, shown.format, shown.size) == ("data:image/webp;base64", "WEBP", (WIDTH, HEIGHT))
    pixel = shown.convert("RGB").getpixel((WIDTH // 2, HEIGHT // 2))
    assert pixel == pytest.approx(colour, abs=8)
