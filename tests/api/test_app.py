"""How a server starts, ends and starts again, and what its settings change."""

import asyncio
import json
from pathlib import Path

import pytest
from queue_calls import RUN, SUBMIT, result_of, status_of, submit, until
from servers import APP, request_of, serving, settings_in

from pipeline.guardrail import GuardrailMissing
from server.app import create_app


async def test_it_answers_while_a_model_loads(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, worker="workers:SlowLoad")
    loading = settings.weights / "loading"
    loading.touch()
    async with serving(settings) as client:
        job = await submit(client)
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert (await client.get("/health/live")).status_code == 200
        told: list[str] = []
        while "Loading the model: Waiting for the file to go" not in told:
            await asyncio.sleep(0.02)
            body = (await status_of(client, job, logs="1")).json()
            assert body["status"] == "IN_QUEUE"
            told = [line["message"] for line in body["logs"]]
        loading.unlink()
        assert (await result_of(client, job)).status_code == 200


async def test_a_worker_that_cannot_load_says_why(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, worker="workers:LoadFails")) as client:
        while "down_reason" not in (body := (await client.get("/health/ready")).json())["slots"][0]:
            await asyncio.sleep(0.05)
        assert "proj_out.weight" in body["slots"][0]["down_reason"]


async def test_jobs_outlive_the_server(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        done = await submit(client)
        result = (await result_of(client, done)).content
        running = await submit(client, "sleep 0.5", num_inference_steps=3, seed=5)
        await until(client, running, "IN_PROGRESS")
        waiting = await submit(client, seed=6)

    async with serving(settings) as client:
        assert (await result_of(client, done)).content == result
        first, second = [await result_of(client, job) for job in (running, waiting)]
        assert (first.json()["seed"], second.json()["seed"]) == (5, 6)


async def test_a_checkpoint_of_another_size_has_the_pictures_prepared_anew(
    tmp_path: Path,
) -> None:
    async with serving(settings_in(tmp_path, worker="workers:LoadFails")) as client:
        job = await submit(client)
        while not list(tmp_path.glob("data/files/*/pixels-96x64-*")):
            await asyncio.sleep(0.02)

    settings = settings_in(tmp_path)
    profile = {"width": 64, "height": 48, "guardrail": "none"}
    (settings.weights / "cosmos_serve.json").write_text(json.dumps(profile))
    async with serving(settings) as client:
        output = (await result_of(client, job)).json()
        assert (output["video"]["width"], output["video"]["height"]) == (64, 48)


async def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, queue_limit=1, worker="workers:SlowLoad")
    (settings.weights / "loading").touch()
    async with serving(settings) as client:
        await submit(client)
        for path in (SUBMIT, RUN):
            answer = await client.post(path, json=request_of())
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) > 0
            assert "queue is full" in answer.json()["detail"]
        (settings.weights / "loading").unlink()


async def test_the_public_url_begins_every_url(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, public_url="https://videos.example/cosmos/")
    async with serving(settings) as client:
        body = (await client.post(SUBMIT, json=request_of())).json()
        output = (await result_of(client, body["request_id"])).json()

    assert body["status_url"].startswith(f"https://videos.example/cosmos/queue/{APP}/requests/")
    assert output["video"]["url"].startswith("https://videos.example/cosmos/files/")


async def test_a_checkpoint_that_requires_a_guardrail_is_refused_at_the_start(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path)
    (settings.weights / "cosmos_serve.json").unlink()

    with pytest.raises(GuardrailMissing) as refused:
        create_app(settings)

    assert str(settings.weights) in str(refused.value)
    assert "--guardrail off" in str(refused.value)
    async with serving(settings_in(tmp_path, guardrail="off")) as client:
        assert (await client.get("/health/live")).status_code == 200


async def test_an_unforeseen_error_is_answered_without_its_inside(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        job = await submit(client, sync_mode=True)
        await until(client, job, "COMPLETED")
        for file in (settings.data / "files").glob("*/*"):
            file.unlink()
            file.mkdir()

        answer = await client.get(f"/queue/{APP}/requests/{job}")

    assert answer.status_code == 500
    assert answer.json() == {"detail": "Internal Server Error"}
    assert answer.headers["x-fal-request-id"] == job
