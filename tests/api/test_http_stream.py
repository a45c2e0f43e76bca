"""Streams: of a request's status, and of a run, over the real app with a scripted worker."""

import asyncio
import base64
import json
from typing import Any

import httpx
import pytest
from queue_calls import RUN, cancel, result_of, submit, until, until_prepared
from servers import APP, ENDPOINT, request_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOBODY = "00000000-0000-4000-8000-000000000000"


def events_in(text: str) -> list[dict[str, Any]]:
    """The events of a whole stream."""
    parts = text.split("\n\n")
    assert parts.pop() == ""
    return [json.loads(part.removeprefix("data: ")) for part in parts if part[0] != ":"]


async def status_stream(
    client: httpx.AsyncClient, job: str, app: str = APP, **params: str
) -> httpx.Response:
    return await client.get(f"/queue/{app}/requests/{job}/status/stream", params=params)


@pytest.mark.parametrize("app", [APP, ENDPOINT])
async def test_the_status_is_streamed_until_the_job_is_done(
    client: httpx.AsyncClient, app: str
) -> None:
    job = await submit(client, "sleep 0.05", num_inference_steps=3)

    answer = await status_stream(client, job, app, logs="1")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-fal-request-id"] == job
    events = events_in(answer.text)
    assert [event["status"] for event in events].count("COMPLETED") == 1
    assert events[-1]["status"] == "COMPLETED"
    assert events[-1]["metrics"]["inference_time"] > 0
    # Clients join the lines of all events: each line is in one of them.
    told = [line for event in events for line in event["logs"]]
    assert told == (await until(client, job, "COMPLETED"))["logs"]


async def test_without_logs_there_is_an_event_for_each_state_alone(
    client: httpx.AsyncClient,
) -> None:
    job = await submit(client, "sleep 0.05", num_inference_steps=3)

    events = events_in((await status_stream(client, job)).text)

    assert all(event["logs"] is None for event in events)
    states = [(event["status"], event.get("queue_position")) for event in events]
    assert len(set(states)) == len(states)
    assert states[-1] == ("COMPLETED", None)


async def test_a_stream_opened_after_the_end_has_one_event(client: httpx.AsyncClient) -> None:
    job = await submit(client)
    status = await until(client, job, "COMPLETED")

    events = events_in((await status_stream(client, job, logs="true")).text)

    assert events == [status]


async def test_a_stream_tells_that_the_place_in_the_queue_moves(client: httpx.AsyncClient) -> None:
    running = await submit(client, "sleep 3600")
    await until(client, running, "IN_PROGRESS")
    first, second = [await submit(client, "sleep 3600") for _ in range(2)]
    await until_prepared(client, first, second)

    stream = asyncio.create_task(status_stream(client, second))
    for job in (running, first, second):
        await until(client, job, "IN_PROGRESS")
        await cancel(client, job)

    places = [event.get("queue_position") for event in events_in((await stream).text)]
    waiting = [place for place in places if place is not None]
    assert waiting == sorted(waiting, reverse=True)
    assert waiting[-1] == 0


async def test_a_stream_of_a_cancelled_request_ends_with_the_reason(
    client: httpx.AsyncClient,
) -> None:
    job = await submit(client, "sleep 3600")
    stream = asyncio.create_task(status_stream(client, job))
    await until(client, job, "IN_PROGRESS")
    await cancel(client, job)

    last = events_in((await stream).text)[-1]

    assert (last["status"], last["error_type"]) == ("COMPLETED", "client_cancelled")


async def test_the_stream_of_an_unknown_request_is_a_404(client: httpx.AsyncClient) -> None:
    answer = await status_stream(client, NOBODY)

    assert answer.status_code == 404
    assert answer.json() == {"detail": "Request not found"}


@pytest.mark.parametrize(
    ("path", "host"), [(f"{RUN}/stream", "localhost"), (f"/{ENDPOINT}/stream", "fal.run")]
)
async def test_a_run_can_be_streamed_and_ends_with_its_output(
    client: httpx.AsyncClient, path: str, host: str
) -> None:
    body = request_of(seed=7, num_inference_steps=3)
    answer = await client.post(path, json=body, headers={"host": host})

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_in(answer.text)
    job = answer.headers["x-fal-request-id"]
    assert events[-1] == (await result_of(client, job)).json()
    assert events[-1]["seed"] == 7
    messages = [line["message"] for event in events[:-1] for line in event["logs"]]
    assert "Step 2 of 3, 0.00 s a step, about 0.0 s left" in messages
    assert len(messages) == len((await until(client, job, "COMPLETED"))["logs"])


async def test_a_streamed_run_can_end_with_the_video_itself(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{RUN}/stream", json=request_of("bytes 1000000", sync_mode=True))

    kind, _, encoded = events_in(answer.text)[-1]["video"]["url"].partition(",")
    assert kind == "data:video/mp4;base64"
    assert len(base64.b64decode(encoded)) == 1_000_000


async def test_a_streamed_run_that_fails_ends_with_its_error(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{RUN}/stream", json=request_of("memory"))

    assert events_in(answer.text)[-1] == {
        "detail": "The device has too little memory for this video.",
        "error_type": "runner_server_error",
    }


@pytest.mark.parametrize(("path", "code"), [(f"{RUN}/stream", 422), ("/run/a/b/stream", 404)])
async def test_a_stream_that_cannot_begin_is_an_ordinary_error(
    client: httpx.AsyncClient, path: str, code: int
) -> None:
    answer = await client.post(path, json={})

    assert answer.status_code == code
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-fal-billable-units"] == "0"
