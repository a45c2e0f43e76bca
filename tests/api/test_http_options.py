"""What callers ask for by headers, over the real app with a scripted worker."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from job_fixtures import sql
from queue_calls import RUN, SUBMIT, cancel, result_of, status_of, submit, until
from servers import APP, request_of, serving, settings_in

from server.config.settings import Settings


async def submit_with(
    client: httpx.AsyncClient, headers: dict[str, str], prompt: str = "a red car", **fields: Any
) -> str:
    answer = await client.post(SUBMIT, json=request_of(prompt, **fields), headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def row_of(settings: Settings, job: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The input and the result that are stored."""
    with closing(sqlite3.connect(settings.data / "jobs.sqlite3")) as db:
        row = db.execute("SELECT input, result FROM jobs WHERE id = ?", [job]).fetchone()
    return json.loads(row[0]), json.loads(row[1])


async def test_a_request_that_is_not_started_in_time_is_given_up(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        running = await submit(client, "sleep 3600")
        await until(client, running, "IN_PROGRESS")
        soon = {"x-fal-request-timeout": "0.2"}

        answer = await client.post(RUN, json=request_of(), headers=soon)
        job = await submit_with(client, soon)
        status = await until(client, job, "COMPLETED")
        result = await result_of(client, job)

        assert (answer.status_code, result.status_code) == (504, 504)
        for late in (answer, result):
            assert late.json() == {"detail": "Request timed out", "error_type": "request_timeout"}
            assert late.headers["x-fal-request-timeout-type"] == "user"
            assert late.headers["x-fal-error-type"] == "request_timeout"
            assert late.headers["x-fal-billable-units"] == "0"
        assert status["error_type"] == "request_timeout"
        assert (await status_of(client, running)).json()["status"] == "IN_PROGRESS"


@pytest.mark.parametrize("path", [RUN, SUBMIT, f"{RUN}/stream"])
async def test_a_malformed_header_is_a_bad_request(tmp_path: Path, path: str) -> None:
    async with serving(settings_in(tmp_path)) as client:
        headers = {"x-fal-request-timeout": "soon"}
        answer = await client.post(path, json=request_of(), headers=headers)

    assert answer.status_code == 400
    assert answer.json()["error_type"] == "bad_request"
    assert answer.headers["x-fal-error-type"] == "bad_request"


async def test_a_request_of_low_priority_lets_the_others_go_first(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        running = await submit(client, "sleep 3600")
        await until(client, running, "IN_PROGRESS")
        low = await submit_with(client, {"x-fal-queue-priority": "low"})
        normal = await submit_with(client, {"x-fal-queue-priority": "normal"})

        places = [(await status_of(client, job)).json()["queue_position"] for job in (low, normal)]
        assert places == [1, 0]
        await cancel(client, running)
        ends = {job: await result_of(client, job) for job in (normal, low)}
        assert {answer.status_code for answer in ends.values()} == {200}


async def test_a_caller_who_wants_no_second_try_gets_none(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path), worker_process=True) as client:
        job = await submit_with(client, {"x-fal-no-retry": "1"}, "killed 1 once")

        result = await result_of(client, job)

        assert result.status_code == 500
        assert result.json()["error_type"] == "runner_server_error"


async def test_an_output_whose_lifetime_is_over_is_gone(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    lifecycle = {"x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 900}'}
    async with serving(settings) as client:
        job = await submit_with(client, lifecycle)
        url = (await result_of(client, job)).json()["video"]["url"]
        assert (await client.get(url)).status_code == 200

        tables = settings.data / "jobs.sqlite3"
        videos = "FROM artifacts WHERE kind = 'video'"
        [(lifetime,)] = sql(tables, f"SELECT expires_at - created_at {videos}")
        assert lifetime == pytest.approx(900, abs=60)
        sql(tables, "UPDATE artifacts SET expires_at = expires_at - 1000 WHERE kind = 'video'")
        assert (await client.get(url)).status_code == 404

        result = await client.get(f"/queue/{APP}/requests/{job}")
        assert result.status_code == 404
        assert result.json() == {"detail": "The files of this request have expired"}
        assert (await status_of(client, job)).json()["status"] == "COMPLETED"


async def test_a_lifecycle_that_cannot_be_read_is_ignored(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        job = await submit_with(client, {"x-fal-object-lifecycle-preference": "{soon"})

        assert (await result_of(client, job)).status_code == 200


async def test_neither_input_nor_error_is_stored_where_that_is_not_wanted(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        stored = await submit(client, "a secret")
        job = await submit_with(client, {"x-fal-store-io": "0"}, "a secret", secret_field=1)
        output = (await result_of(client, job)).json()
        await result_of(client, stored)

        assert (await client.get(output["video"]["url"])).status_code == 200
        assert (await result_of(client, job)).json() == output
    assert "a secret" in str(row_of(settings, stored))
    assert row_of(settings, job)[0] == {"sync_mode": False}
    for file in settings.data.glob("jobs.sqlite3*"):
        assert b"secret_field" not in file.read_bytes()


async def test_the_same_idempotency_key_is_the_same_job(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, queue_limit=1)) as client:
        headers = {"idempotency-key": "one"}
        running = await submit(client, "sleep 3600")
        await until(client, running, "IN_PROGRESS")

        jobs = await asyncio.gather(*(submit_with(client, headers) for _ in range(4)))
        other_body = await client.post(SUBMIT, json=request_of("a blue car"), headers=headers)
        other_key = await client.post(SUBMIT, json=request_of(), headers={"idempotency-key": "two"})

        assert len(set(jobs)) == 1
        assert other_body.status_code == 422
        assert "another body" in other_body.json()["detail"]
        assert other_key.status_code == 429, "the queue is full, but for what is in it already"
        await cancel(client, running)


async def test_invalid_input_with_an_idempotency_key_is_one_job_too(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        headers = {"idempotency-key": "one"}
        jobs = [await submit_with(client, headers, num_frames=8) for _ in range(2)]

        assert jobs[0] == jobs[1]
        assert (await result_of(client, jobs[0])).status_code == 422
