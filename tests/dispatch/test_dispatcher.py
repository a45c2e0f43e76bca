"""Which job runs where, and what becomes of a run that does not end as it should."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from in_process_pool import InProcessPool
from job_fixtures import is_webp
from queue_calls import RUN, cancel, result_of, status_of, submit, until_prepared
from servers import request_of, serving, settings_in

from server.config.settings import Settings
from server.db.database import Database
from server.dispatch.run import JobRun
from server.jobs.store import JobStore
from server.models import CancelAnswer, JobStatus
from server.workers.pool import WorkerTaken


@asynccontextmanager
async def watched(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, JobStore]]:
    """A server, and the tables as another process sees them: what it writes, nobody is told of."""
    async with serving(settings) as client:
        with closing(Database(settings.data / "jobs.sqlite3")) as database:
            yield client, JobStore(database, owner="another process")


async def until(store: JobStore, job_id: str, status: JobStatus) -> None:
    while store.job(job_id).status is not status:
        await asyncio.sleep(0.02)


async def test_every_slot_runs_a_job_of_its_own(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, devices="cpu,cpu")
    async with watched(settings) as (client, store):
        jobs = [await submit(client, "sleep 3600") for _ in range(2)]
        for job in jobs:
            await until(store, job, JobStatus.IN_PROGRESS)
        jobs.append(await submit(client, "sleep 3600"))
        assert {store.job(job).slot for job in jobs[:2]} == {"cpu", "cpu-2"}
        assert store.job(jobs[2]).status is JobStatus.IN_QUEUE

        await cancel(client, jobs[0])

        await until(store, jobs[2], JobStatus.IN_PROGRESS)
        assert store.job(jobs[1]).status is JobStatus.IN_PROGRESS


async def test_a_cancel_between_the_claim_and_the_run_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, may_go_on, sent = threading.Event(), threading.Event(), threading.Event()
    read, send = JobRun._media, InProcessPool.cancel

    def read_slowly(run: JobRun) -> Any:
        reading.set()
        may_go_on.wait()
        # It would be sent too early, to a worker that has not got the order yet.
        sent.wait(0.2)
        return read(run)

    async def send_noting(pool: InProcessPool, *which: Any) -> None:
        await send(pool, *which)
        sent.set()

    monkeypatch.setattr(JobRun, "_media", read_slowly)
    monkeypatch.setattr(InProcessPool, "cancel", send_noting)
    async with watched(settings_in(tmp_path)) as (client, store):
        job = await submit(client, "sleep 3600")
        while not reading.is_set():
            await asyncio.sleep(0.02)

        await cancel(client, job)
        may_go_on.set()

        await until(store, job, JobStatus.COMPLETED)
        assert (await result_of(client, job)).status_code == 499


async def test_jobs_run_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with watched(settings) as (client, store):
        # A job whose picture is prepared later than another's may run after it.
        await client.post("/admin/queue/pause")
        jobs = [await submit(client) for _ in range(5)]
        await until_prepared(client, *jobs)
        await client.post("/admin/queue/resume")
        for job in jobs:
            await until(store, job, JobStatus.COMPLETED)
        started = [store.job(job).started_at for job in jobs]

    assert None not in started
    assert started == sorted(started, key=lambda at: at or 0.0)


async def test_a_cancel_that_nobody_was_told_of_is_found_in_the_table(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with watched(settings) as (client, store):
        job = await submit(client, "sleep 3600")
        await until(store, job, JobStatus.IN_PROGRESS)

        assert store.request_cancel(job) is CancelAnswer.REQUESTED

        await until(store, job, JobStatus.COMPLETED)
        error = store.job(job).error
        assert error is not None
        assert error.http_status == 499


async def test_a_job_put_back_by_another_process_is_found_in_the_table(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with watched(settings) as (client, store):
        job = await submit(client, "sleep 0.5")
        await until(store, job, JobStatus.IN_PROGRESS)

        # The run here is of attempt 1: it is given up, and its video is never published.
        store.give_back(job, 1)

        await until(store, job, JobStatus.COMPLETED)
        row = store.job(job)
        assert (row.attempt, row.error, row.worker_deaths) == (2, None, 0)
    assert len(videos_in(settings)) == 1


async def test_a_run_that_the_pool_takes_from_a_job_is_no_death_of_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, times = InProcessPool.run, itertools.count(1)

    @asynccontextmanager
    async def run_thrice(pool: InProcessPool, *which: Any) -> AsyncIterator[Any]:
        async with run(pool, *which) as events:
            if next(times) < 3:
                raise WorkerTaken("The node one has left the cluster of Ray.")
            yield events

    monkeypatch.setattr(InProcessPool, "run", run_thrice)
    async with watched(settings_in(tmp_path)) as (client, store):
        job = await submit(client)
        await until(store, job, JobStatus.COMPLETED)
        row = store.job(job)
        assert (row.attempt, row.error, row.worker_deaths) == (3, None, 0)
        status = (await status_of(client, job, logs=1)).json()
        said = {line["message"] for line in status["logs"]}
        assert "The node one has left the cluster of Ray. The video is made again." in said


async def test_a_cancelled_video_leaves_no_file(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with watched(settings) as (client, store):
        job = await submit(client, "flood")
        while not list((settings.data / "files").glob("*/*.part")):
            await asyncio.sleep(0.01)

        await cancel(client, job)

        await until(store, job, JobStatus.COMPLETED)
    assert videos_in(settings) == []


async def test_progress_is_in_the_table_while_the_job_runs(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with watched(settings) as (client, store):
        job = await submit(client, "wait 1")
        while (progress := store.standing(job).progress) is None or progress.step is None:
            await asyncio.sleep(0.02)

    assert (progress.stage, progress.num_steps) == ("denoise", 2)


async def test_memory_that_does_not_suffice_is_said_in_a_sentence(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        answer = await client.post(RUN, json=request_of("memory"))

    assert answer.status_code == 500
    assert answer.json() == {
        "detail": "The device has too little memory for this video.",
        "error_type": "runner_server_error",
    }


def videos_in(settings: Settings) -> list[str]:
    """Every file that is no picture."""
    files = (settings.data / "files").glob("*/*")
    return [
        file.name
        for file in files
        if not file.name.startswith(("image-", "pixels-")) and not is_webp(file)
    ]
