"""The service `queue.fal.run`, over the real app with a scripted worker."""

import asyncio
import math

import httpx
import pytest
from asgi_calls import app_of
from queue_calls import SUBMIT, cancel, result_of, status_of, submit, until
from servers import APP, BASE_URL, ENDPOINT, request_of

from server.api.status_cache import _Kept

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOBODY = "00000000-0000-4000-8000-000000000000"


async def test_submit_answers_with_urls_on_the_host_that_was_used(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post(SUBMIT, json=request_of())
    body = answer.json()
    job = body["request_id"]

    assert answer.status_code == 200
    assert answer.headers["x-fal-request-id"] == job
    assert body["status"] == "IN_QUEUE"
    assert body["gateway_request_id"] == job
    assert body["response_url"] == f"{BASE_URL}/queue/{APP}/requests/{job}"
    assert body["status_url"] == f"{BASE_URL}/queue/{APP}/requests/{job}/status"
    assert body["cancel_url"] == f"{BASE_URL}/queue/{APP}/requests/{job}/cancel"
    assert isinstance(body["queue_position"], int)
    assert (await result_of(client, job)).status_code == 200


async def test_on_fals_own_host_the_urls_have_no_prefix(client: httpx.AsyncClient) -> None:
    host = {"host": "queue.fal.run"}
    job = (await client.post(f"/{ENDPOINT}", json=request_of(), headers=host)).json()

    assert job["status_url"].startswith(f"http://queue.fal.run/{APP}/requests/")
    answer = await client.get(job["status_url"].removeprefix("http://queue.fal.run"), headers=host)
    assert answer.status_code in (200, 202)
    # The job belongs to the host that it was submitted to: so do its URLs for every caller.
    elsewhere = await status_of(client, job["request_id"])
    assert elsewhere.json()["status_url"] == job["status_url"]
    await until(client, job["request_id"], "COMPLETED")


@pytest.mark.parametrize("app", [APP, ENDPOINT])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_both_forms_of_every_path_work_without_a_redirect(
    client: httpx.AsyncClient, app: str, slash: str
) -> None:
    job = await submit(client)
    await until(client, job, "COMPLETED")
    request = f"/queue/{app}/requests/{job}"

    assert (await client.get(f"{request}/status{slash}?logs=0")).status_code == 200
    assert (await client.get(f"{request}{slash}")).status_code == 200
    assert (await client.put(f"{request}/cancel{slash}")).status_code == 400


async def test_a_request_is_unknown_under_another_app(client: httpx.AsyncClient) -> None:
    job = await submit(client)
    await until(client, job, "COMPLETED")

    answer = await client.get(f"/queue/fal-ai/another/requests/{job}/status")

    assert answer.status_code == 404


async def test_the_status_follows_the_job(client: httpx.AsyncClient) -> None:
    running = await submit(client, "sleep 3600")
    await until(client, running, "IN_PROGRESS")
    waiting = await submit(client)

    answer = await status_of(client, running)
    assert answer.status_code == 202
    assert (answer.json()["logs"], answer.json()["metrics"]) == (None, {})
    answer = await status_of(client, waiting)
    assert answer.status_code == 202
    assert answer.json()["status"] == "IN_QUEUE"
    assert answer.json()["queue_position"] == 0

    await cancel(client, running)
    await until(client, waiting, "COMPLETED")
    answer = await status_of(client, waiting)
    assert answer.status_code == 200
    metrics = answer.json()["metrics"]
    assert metrics["inference_time"] > 0
    assert metrics["stage_seconds"].keys() == {"text", "denoise", "decode", "encode"}
    assert metrics["tier"] == "exact"
    assert metrics["made_with"]["device"] == "scripted cpu"
    assert "error" not in answer.json()
    assert "progress" not in answer.json()


async def test_the_stage_and_the_step_are_told_while_it_runs(client: httpx.AsyncClient) -> None:
    job = await submit(client, "wait 1")
    while "step" not in (body := (await status_of(client, job)).json()).get("progress", {}):
        await asyncio.sleep(0.02)

    assert body["progress"] == {"stage": "denoise", "step": 1, "num_steps": 2}
    await cancel(client, job)


@pytest.mark.parametrize("switch", ["1", "true", "True"])
async def test_logs_tell_a_person_what_is_going_on(client: httpx.AsyncClient, switch: str) -> None:
    job = await submit(client, num_inference_steps=3)
    await until(client, job, "COMPLETED")

    logs = (await status_of(client, job, logs=switch)).json()["logs"]

    messages = [line["message"] for line in logs]
    assert "Started on cpu" in messages
    assert "Reading the prompt" in messages
    assert "The script begins." in messages
    assert "Step 2 of 3, 0.00 s a step, about 0.0 s left" in messages
    assert messages[-1] == "Encoding the video"
    for line in logs:
        assert set(line) == {"message", "level", "source", "timestamp", "labels"}
        assert line["labels"] == {"level": line["level"]}
        assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize("switch", ["0", "false"])
async def test_logs_are_null_where_they_were_not_asked_for(
    client: httpx.AsyncClient, switch: str
) -> None:
    job = await submit(client)
    await until(client, job, "COMPLETED")

    body = (await status_of(client, job, logs=switch)).json()

    assert "logs" in body
    assert body["logs"] is None


async def test_a_result_asked_for_too_early_is_still_in_progress(
    client: httpx.AsyncClient,
) -> None:
    job = await submit(client, "sleep 3600")

    answer = await client.get(f"/queue/{APP}/requests/{job}")

    assert answer.status_code == 400
    assert answer.json() == {"detail": "Request is still in progress"}
    assert answer.headers["x-fal-request-id"] == job
    await cancel(client, job)


async def test_a_result_is_answered_though_another_server_ended_the_job_a_moment_ago(
    client: httpx.AsyncClient,
) -> None:
    job = await submit(client, "sleep 0.2")
    statuses = app_of(client).state.services.statuses
    older = await statuses.get(job)
    await until(client, job, "COMPLETED")

    statuses._kept[job] = _Kept(older, math.inf)
    assert (await status_of(client, job)).status_code == 202
    assert (await client.get(f"/queue/{APP}/requests/{job}")).status_code == 200
    assert (await status_of(client, job)).status_code == 200


async def test_a_result_asked_for_twice_is_the_same(client: httpx.AsyncClient) -> None:
    job = await submit(client)

    first = await result_of(client, job)
    again = await result_of(client, job)

    assert first.status_code == 200
    assert first.headers["x-fal-request-id"] == job
    assert first.content == again.content


async def test_invalid_input_is_accepted_and_reported_by_the_result(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post(SUBMIT, json=request_of(num_frames=8))
    job = answer.json()["request_id"]

    assert (answer.status_code, answer.json()["status"]) == (200, "IN_QUEUE")
    status = await status_of(client, job)
    assert (status.status_code, status.json()["status"]) == (200, "COMPLETED")
    assert "error" not in status.json(), "only failures of the infrastructure are told here"
    result = await client.get(f"/queue/{APP}/requests/{job}")
    assert result.status_code == 422
    assert result.json()["detail"][0]["type"] == "greater_than_equal"
    assert result.headers["x-fal-billable-units"] == "0"


@pytest.mark.parametrize(("method", "tail"), [("GET", "/status"), ("GET", ""), ("PUT", "/cancel")])
async def test_an_unknown_request_is_not_found(
    client: httpx.AsyncClient, method: str, tail: str
) -> None:
    answer = await client.request(method, f"/queue/{APP}/requests/{NOBODY}{tail}")

    assert answer.status_code == 404
    assert answer.json() == {"detail": "Request not found"}


async def test_concurrent_submits_are_jobs_of_their_own(client: httpx.AsyncClient) -> None:
    jobs = await asyncio.gather(*(submit(client) for _ in range(4)))
    outputs = [(await result_of(client, job)).json() for job in jobs]

    assert len(set(jobs)) == 4
    assert len({output["seed"] for output in outputs}) == 4


async def test_a_job_that_waits_is_cancelled_and_never_runs(client: httpx.AsyncClient) -> None:
    running = await submit(client, "sleep 3600")
    await until(client, running, "IN_PROGRESS")
    waiting = await submit(client)
    answer = await cancel(client, waiting)

    assert answer.status_code == 202
    assert answer.json() == {"status": "CANCELLATION_REQUESTED"}
    status = await status_of(client, waiting, logs="1")
    assert status.json()["status"] == "COMPLETED"
    assert status.json()["logs"] == []
    assert status.json()["error_type"] == "client_cancelled"
    result = await client.get(f"/queue/{APP}/requests/{waiting}")
    assert result.status_code == 499
    assert result.json() == {
        "detail": "Request cancelled by the client.",
        "error_type": "client_cancelled",
    }
    assert result.headers["x-fal-error-type"] == "client_cancelled"
    await cancel(client, running)


async def test_a_running_job_is_cancelled_within_its_step(client: httpx.AsyncClient) -> None:
    job = await submit(client, "sleep 3600")
    await until(client, job, "IN_PROGRESS")

    answer = await cancel(client, job)

    assert answer.status_code == 202
    assert (await result_of(client, job)).status_code == 499
    next_one = await result_of(client, await submit(client))
    assert next_one.status_code == 200


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        ("wait text", "Reading the prompt"),
        ("wait denoise", "Denoising"),
        ("wait 1", "Step 1"),
        ("wait decode", "Decoding frames"),
        ("wait encode", "Encoding the video"),
        ("flood", "Encoding the video"),
    ],
)
async def test_a_job_is_cancelled_at_every_stage(
    client: httpx.AsyncClient, prompt: str, line: str
) -> None:
    job = await submit(client, prompt)
    while line not in (await status_of(client, job, logs="1")).text:
        await asyncio.sleep(0.02)

    assert (await cancel(client, job)).status_code == 202

    assert (await result_of(client, job)).json()["error_type"] == "client_cancelled"
    lines = (await status_of(client, job, logs="1")).json()["logs"]
    assert line in lines[-1]["message"], "work went on after the cancel"


async def test_a_finished_job_cannot_be_cancelled(client: httpx.AsyncClient) -> None:
    job = await submit(client)
    before = await result_of(client, job)

    answer = await cancel(client, job)

    assert answer.status_code == 400
    assert answer.json() == {"status": "ALREADY_COMPLETED"}
    assert (await result_of(client, job)).content == before.content


async def test_the_log_names_the_fields_that_were_ignored(client: httpx.AsyncClient) -> None:
    job = await submit(client, output_type="webm")
    logs = (await until(client, job, "COMPLETED"))["logs"]

    assert "'output_type' (did you mean 'video_output_type'?)" in logs[0]["message"]
    assert (await result_of(client, job)).json()["video"]["content_type"] == "video/mp4"
