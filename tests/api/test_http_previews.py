"""Previews of a request that runs, over the real app with a scripted worker."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from api_keys import add_key, by_key
from moderation_site import moderations
from queue_calls import SUBMIT, cancel, result_of, submit, until
from servers import APP, request_of, serving, settings_in
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


@pytest.mark.parametrize("params", [{"previews": "1"}, {}])
async def test_previews_are_in_the_stream_of_those_who_ask(
    client: httpx.AsyncClient, params: dict[str, str]
) -> None:
    job = await submit(client, RUNNING)
    url = f"/queue/{APP}/requests/{job}/status/stream"
    stream = asyncio.create_task(client.get(url, params=params))
    await preview_in(client, job)
    await cancel(client, job)

    *events, end = (await stream).text.split("\n\n")

    assert end == ""
    named = [event for event in events if event.startswith("event: ")]
    statuses = [json.loads(event.removeprefix("data: ")) for event in events if event not in named]
    assert statuses[-1]["status"] == "COMPLETED"
    shown = base64.b64encode(preview_of(1)).decode()
    file = {"url": f"data:image/webp;base64,{shown}", "content_type": "image/webp"}
    told = [event.removeprefix("event: preview\ndata: ") for event in named]
    assert [json.loads(each) for each in told] == ([file] if params else [])
    assert (await result_of(client, job)).status_code == 499
