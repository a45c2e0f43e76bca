"""What callers are told when a worker fails them."""

from pathlib import Path

import httpx
import pytest
from queue_calls import RUN, result_of, status_of, submit, until
from servers import request_of, serving, settings_in

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_job_whose_worker_died_is_run_again(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path), worker_process=True) as client:
        job = await submit(client, "killed 1 once")

        assert (await result_of(client, job)).status_code == 200
        logs = (await status_of(client, job, logs="1")).json()["logs"]
    assert any(line["level"] == "ERROR" for line in logs)
    assert any(line["message"] == "Started on cpu, try 2" for line in logs)


async def test_a_job_whose_encoder_is_killed_is_run_again(client: httpx.AsyncClient) -> None:
    once, always = await submit(client, "encoder once"), await submit(client, "encoder")

    assert (await result_of(client, once)).status_code == 200
    failed = await result_of(client, always)
    assert failed.status_code == 500
    assert "ffmpeg was killed" in failed.json()["detail"]
    log = (await status_of(client, always, logs="1")).text
    assert "try 2" in log
    assert "try 3" not in log


async def test_a_job_that_two_workers_died_on_fails_with_the_reason(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path), worker_process=True) as client:
        job = await submit(client, "killed 1")
        status = await until(client, job, "COMPLETED")
        result = await result_of(client, job)

    assert status["error_type"] == "runner_server_error"
    assert "killed" in status["error"]
    assert result.status_code == 500
    assert result.json() == {"detail": status["error"], "error_type": "runner_server_error"}
    assert result.headers["x-fal-error-type"] == "runner_server_error"


async def test_an_unforeseen_error_of_a_worker_shows_nothing_of_its_inside(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post(RUN, json=request_of("raise"))

    assert answer.status_code == 500
    assert answer.json()["error_type"] == "internal_error"
    assert "secret" not in answer.text


async def test_an_input_that_the_worker_refuses_is_a_422_of_that_field(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post(RUN, json=request_of("refuse"))

    assert answer.status_code == 422
    assert answer.json()["detail"] == [
        {
            "loc": ["body", "image_url"],
            "msg": "The picture is too large.",
            "type": "image_too_large",
            "url": "https://docs.fal.ai/errors#image_too_large",
            "input": "data:…",
            "ctx": {"max_width": 64},
        }
    ]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [("liesize", "described a file"), ("liehash", "described a file"), ("noartifact", "without")],
)
async def test_a_worker_that_lies_about_its_video_publishes_nothing(
    client: httpx.AsyncClient, prompt: str, reason: str
) -> None:
    answer = await client.post(RUN, json=request_of(prompt))

    assert answer.status_code == 500
    assert answer.json()["error_type"] == "runner_incomplete_response"
    assert reason in answer.json()["detail"]
