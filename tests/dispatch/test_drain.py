"""A server that is told to end: what it still does, and what becomes of the jobs that run."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals

import httpx
import psutil
import pytest
from servers import (
    ENDPOINT,
    RunningServer,
    data_uri,
    launch,
    logging_to,
    picture,
    request_of,
    settings_in,
    start_server,
)

from server.db.database import Database
from server.dispatch.drain import Drain
from server.jobs.store import JobStore
from server.models import Job, JobStatus
from server.serve import _Ending

QUEUE = f"/queue/{ENDPOINT}"
FOR_EVER = {"COSMOS_DRAIN_SECONDS": "3600"}


@contextmanager
def started(
    folder: Path, program: Sequence[str | Path] | None = None, **environment: str
) -> Iterator[tuple[RunningServer, httpx.Client]]:
    server = start_server(folder, program=program, **environment)
    try:
        with httpx.Client(base_url=server.http, timeout=30) as client:
            yield server, client
    finally:
        server.process.kill()
        server.end()


def submit(client: httpx.Client, prompt: str) -> str:
    answer = client.post(QUEUE, json=request_of(prompt))
    return str(answer.json()["request_id"])


def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.02)


def runs(client: httpx.Client, job: str) -> bool:
    """Whether the worker is at work, and not only claimed."""
    path = f"/queue/fal-ai/cosmos-predict-2.5/requests/{job}/status"
    lines = client.get(path, params={"logs": "1"}).json().get("logs") or []
    return any("The script begins" in line["message"] for line in lines)


def is_ready(client: httpx.Client) -> bool:
    return client.get("/health/ready").status_code == 200


def jobs_in(folder: Path, *ids: str) -> list[Job]:
    with closing(Database(settings_in(folder).data / "jobs.sqlite3")) as database:
        store = JobStore(database, owner="the test")
        return [store.job(job) for job in ids]


def test_a_run_may_end_and_no_other_begins(tmp_path: Path) -> None:
    with started(tmp_path, **FOR_EVER) as (server, client):
        running = submit(client, "sleep 0.7")
        until(lambda: runs(client, running))
        waiting = submit(client, "")

        server.process.send_signal(SIGTERM)
        until(lambda: not is_ready(client))
        assert client.get("/health/live").status_code == 200

        assert server.process.wait(30) == 0
    ended, kept = jobs_in(tmp_path, running, waiting)
    assert (ended.status, ended.error, ended.attempt) == (JobStatus.COMPLETED, None, 1)
    assert (kept.status, kept.attempt) == (JobStatus.IN_QUEUE, 0)


@pytest.mark.parametrize("prompt", ["sleep 3600", "hang"])
def test_a_run_that_takes_longer_goes_back_to_the_queue(tmp_path: Path, prompt: str) -> None:
    with started(tmp_path, COSMOS_DRAIN_SECONDS="0.1") as (server, client):
        job = submit(client, prompt)
        until(lambda: runs(client, job))

        server.process.send_signal(SIGTERM)

        assert server.process.wait(30) == 0
    [kept] = jobs_in(tmp_path, job)
    assert (kept.status, kept.attempt, kept.worker_deaths) == (JobStatus.IN_QUEUE, 1, 0)


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_a_signal_to_every_process_of_the_server_ends_no_job(
    tmp_path: Path, number: Signals
) -> None:
    with started(tmp_path, **FOR_EVER) as (server, client):
        running = submit(client, "sleep 0.7")
        until(lambda: runs(client, running))
        large = data_uri(picture(4000, 4000))
        decoded = client.post(QUEUE, json=request_of(image_url=large)).json()["request_id"]
        processes = psutil.Process(server.process.pid)
        while not any("decoder_process" in each for each in command_lines(processes)):
            pass

        for process in (processes, *processes.children(recursive=True)):
            process.send_signal(number)

        assert server.process.wait(30) == 0
    ended, kept = jobs_in(tmp_path, running, decoded)
    assert (ended.status, ended.error, ended.attempt) == (JobStatus.COMPLETED, None, 1)
    assert (kept.status, kept.error) == (JobStatus.IN_QUEUE, None)


@pytest.mark.parametrize("fault", ["killed 2", "raise 2"])
def test_a_failure_while_the_server_stops_is_not_the_jobs(tmp_path: Path, fault: str) -> None:
    with started(tmp_path, **FOR_EVER) as (server, client):
        job = submit(client, f"sleep 2; {fault}")
        until(lambda: runs(client, job))

        server.process.send_signal(SIGTERM)

        assert server.process.wait(30) == 0
    [kept] = jobs_in(tmp_path, job)
    assert (kept.status, kept.error, kept.worker_deaths) == (JobStatus.IN_QUEUE, None, 0)


def command_lines(parent: psutil.Process) -> list[str]:
    with suppress(psutil.NoSuchProcess):
        return [" ".join(each.cmdline()) for each in parent.children()]
    return []


def test_stopping_is_said_and_a_start_meanwhile_names_who_is_stopping(tmp_path: Path) -> None:
    log, said = tmp_path / "log", tmp_path / "said"
    with started(tmp_path, logging_to(log), **FOR_EVER) as (server, client):
        job = submit(client, "sleep 3600")
        until(lambda: runs(client, job))
        server.process.send_signal(SIGTERM)
        until(lambda: "Stopping: 1 job has up to 3600 s" in log.read_text())

        port = server.http.rpartition(":")[2]
        second = launch(tmp_path, "--port", port, program=logging_to(said))
        out, _ = second.communicate(timeout=30)
        assert (second.returncode, out) == (1, "")
        assert re.fullmatch(
            rf"cosmos-serve: The server of the data folder {tmp_path}/data "
            rf"\(process {server.process.pid}\) is still stopping: its jobs have up to \d+ s\. "
            r"Start this one after it\.\n",
            said.read_text(),
        )


@pytest.mark.parametrize("second", [SIGTERM, SIGINT])
def test_a_second_signal_waits_for_nothing(tmp_path: Path, second: Signals) -> None:
    with started(tmp_path, **FOR_EVER) as (server, client):
        job = submit(client, "sleep 3600")
        until(lambda: runs(client, job))
        server.process.send_signal(SIGTERM)
        until(lambda: not is_ready(client))

        server.process.send_signal(second)

        assert server.process.wait(30) == 0
    [kept] = jobs_in(tmp_path, job)
    assert (kept.status, kept.worker_deaths) == (JobStatus.IN_QUEUE, 0)


async def test_the_first_signal_does_not_cut_short_an_end_that_the_server_began(
    tmp_path: Path,
) -> None:
    drain = Drain()
    ending = _Ending([], drain, settings_in(tmp_path, drain_seconds=3600))
    ending.on_signals()
    with drain.run("cpu", "job"):
        drain.ask()
        while not drain.has_begun:
            await asyncio.sleep(0)
        ending._hear()
        assert ending._draining is not None
        await asyncio.sleep(0.01)
        assert not ending._draining.done()

        ending._hear()
        with pytest.raises(asyncio.CancelledError):
            await ending._draining


def test_a_server_that_runs_nothing_ends_without_waiting(tmp_path: Path) -> None:
    with started(tmp_path, **FOR_EVER) as (server, client):
        assert client.get("/health/live").status_code == 200

        server.process.send_signal(SIGTERM)

        assert server.process.wait(30) == 0
