"""A GPU that runs out of memory, as jobs, operators and settings see it."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from pools import SLOT, local_pool, order, running
from queue_calls import result_of, submit, until
from scrapes import scrape
from servers import serving, settings_in
from stand_ins import stand_in

from pipeline.memory_plan import MemoryPlan
from pipeline.progress import Restarted
from server.workers.messages import CancelledEvent, Done, RunEvent
from server.workers.pool import SlotUp


async def slot_of(client: httpx.AsyncClient) -> dict[str, Any]:
    """The slot as operators see it, once it has let go of the last run."""
    while True:
        slot: dict[str, Any]
        (slot,) = (await client.get("/health/ready")).json()["slots"]
        if slot["state"] == "idle":
            return slot
        await asyncio.sleep(0.02)


async def shortages(client: httpx.AsyncClient) -> float | None:
    return (await scrape(client)).number("cosmos_memory_shortages_total", {"slot": SLOT})


async def test_a_slot_knows_the_plan_that_its_worker_follows_after_each_run() -> None:
    async with running(local_pool()) as watched:
        await watched.until(SlotUp)
        (before,) = watched.pool.slots()
        for restarts in (1, 0):
            events = await watched.run(order("offload 2"))
            assert sum(isinstance(event, Restarted) for event in events) == restarts
            assert isinstance(events[-1], Done)
            (after,) = watched.pool.slots()
            assert (after.memory, after.memory_shortages) == (MemoryPlan.STREAM, 1)
        await watched.fails(order("killed"))
        await watched.until(SlotUp)
        (new,) = watched.pool.slots()
    assert (before.memory, new.memory) == (MemoryPlan.RESIDENT, MemoryPlan.RESIDENT)
    assert new.memory_shortages == 1


async def test_a_job_that_is_begun_again_succeeds_and_its_log_says_so(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path), worker_process=True) as client:
        job = await submit(client, "offload 2", num_inference_steps=3)
        status = await until(client, job, "COMPLETED")
        assert (await result_of(client, job)).status_code == 200

        said = [line["message"] for line in status["logs"]]
        (again,) = [index for index, line in enumerate(said) if "ran out of memory" in line]
        steps = [line.split(",")[0] for line in said if line.startswith("Step")]
        assert steps == [f"Step {step} of 3" for step in (1, 2, 1, 2, 3)]
        assert said[again + 1] == "Reading the prompt"

        assert (await slot_of(client))["memory"] == "stream"
        info = {"slot": "cpu", "device": "cpu", "device_name": "scripted cpu"}
        info |= {"attention": "scripted", "memory": "stream", "kernels": "plain"}
        assert (await scrape(client)).number("cosmos_slot_info", info) == 1
        assert await shortages(client) == 1


async def test_a_job_that_never_fits_in_memory_fails_at_once_with_the_reason(
    tmp_path: Path,
) -> None:
    async with serving(settings_in(tmp_path), worker_process=True) as client:
        job = await submit(client, "memory")
        status = await until(client, job, "COMPLETED")
        answer = await result_of(client, job)

        assert answer.status_code == 500
        assert answer.json() == {
            "detail": "The device has too little memory for this video.",
            "error_type": "runner_server_error",
        }
        assert answer.headers["x-fal-error-type"] == "runner_server_error"
        said = [line["message"] for line in status["logs"]]
        assert said[-1] == answer.json()["detail"]
        assert sum(line.startswith("Started on") for line in said) == 1
        assert await shortages(client) == 1
        assert (await slot_of(client))["memory"] == "resident"


@pytest.mark.parametrize("memory", ["resident", "offload", "stream"])
async def test_the_setting_reaches_the_worker(tmp_path: Path, memory: str) -> None:
    async with serving(settings_in(tmp_path, memory=memory), worker_process=True) as client:
        await result_of(client, await submit(client))
        assert (await slot_of(client))["memory"] == memory


async def test_a_cancel_is_heard_in_a_run_that_began_again() -> None:
    async with running(local_pool()) as watched:
        await watched.until(SlotUp)
        work = order("offload 1; sleep 0.05", steps=50)
        events: list[RunEvent] = []
        async with watched.pool.run(SLOT, work) as running_events:
            async for event in running_events:
                events.append(event)
                if isinstance(event, Restarted):
                    await watched.pool.cancel(SLOT, work.job_id, work.attempt)
        assert isinstance(events[-1], CancelledEvent)


async def test_the_real_worker_begins_again_and_stays_offloaded(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, weights=stand_in(), worker="gpu_workers:RunsOutOnce")
    async with serving(settings, worker_process=True) as client:
        restarts, files = [], []
        for _ in range(2):
            job = await submit(client, num_frames=9, seed=1)
            logs = (await until(client, job, "COMPLETED"))["logs"]
            restarts.append([line for line in logs if "GPU ran out of memory" in line["message"]])
            answer = await result_of(client, job)
            files.append((await client.get(answer.json()["video"]["url"])).content)
        slot = await slot_of(client)

    assert [len(lines) for lines in restarts] == [1, 0]
    assert "1.50 GiB more were needed" in restarts[0][0]["message"]
    assert files[0] == files[1]
    assert slot["memory"] == "stream"
