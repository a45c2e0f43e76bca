"""What becomes of a run whose caller goes away, and of the same request when it comes again."""

import asyncio
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from api_keys import add_key, by_key
from asgi_calls import Connection
from in_process_pool import InProcessPool
from job_fixtures import sql, submit
from queue_calls import RUN, result_of
from servers import APP, request_of, serving, settings_in

from server.config.settings import Settings
from server.db.database import Database
from server.errors import Shortage
from server.inputs import disconnects
from server.inputs.disconnects import DisconnectedRuns
from server.inputs.submit import Submissions
from server.jobs.store import JobStore
from server.tasks import Signals
from server.workers.loop import WorkerOptions

Row = tuple[str, str, int | None]


def jobs_in(settings: Settings) -> list[Row]:
    """Id, status and HTTP status of each job, in their order."""
    return sql(
        settings.data / "jobs.sqlite3", "SELECT id, status, http_status FROM jobs ORDER BY seq"
    )


async def until(settings: Settings, *wanted: tuple[str, int | None]) -> list[Row]:
    """Wait until the jobs are so: status and HTTP status of each."""
    rows = jobs_in(settings)
    while [row[1:] for row in rows] != list(wanted):
        await asyncio.sleep(0.01)
        rows = jobs_in(settings)
    return rows


RUNNING = ("IN_PROGRESS", None)
WAITING = ("IN_QUEUE", None)
DONE = ("COMPLETED", 200)
CANCELLED = ("COMPLETED", 499)


@pytest.mark.parametrize("path", [RUN, f"{RUN}/stream"])
async def test_a_run_that_was_cut_off_and_sent_again_is_one_job(tmp_path: Path, path: str) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        body = request_of("sleep 0.2")
        async with Connection(client, path, body):
            [(job, *_)] = await until(settings, RUNNING)

        answer = await client.post(RUN, json=body)

        assert answer.status_code == 200
        assert answer.headers["x-fal-request-id"] == job
        assert answer.json() == (await result_of(client, job)).json()
        assert await until(settings, DONE)


async def test_a_run_that_ended_meanwhile_is_answered_at_once(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        body = request_of("sleep 0.1")
        async with Connection(client, RUN, body):
            await until(settings, RUNNING)
        [(job, *_)] = await until(settings, DONE)

        answer = await client.post(RUN, json=body)

        assert answer.headers["x-fal-request-id"] == job


async def test_a_run_that_is_cut_off_twice_is_still_one_job(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        body = request_of("sleep 0.3")
        for _ in range(2):
            async with Connection(client, RUN, body):
                await until(settings, RUNNING)

        assert (await client.post(RUN, json=body)).status_code == 200
        await until(settings, DONE)


@pytest.mark.parametrize("path", [RUN, f"{RUN}/stream"])
async def test_a_run_whose_caller_does_not_return_is_cancelled(tmp_path: Path, path: str) -> None:
    settings = settings_in(tmp_path, disconnect_grace=0.05)
    async with serving(settings) as client:
        async with Connection(client, path, request_of("sleep 3600")):
            await until(settings, RUNNING)

        await until(settings, CANCELLED)
        assert (await client.post(RUN, json=request_of())).status_code == 200, "the slot is free"


async def test_a_run_without_a_caller_makes_room_at_once_for_a_job_that_waits(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path, disconnect_grace=3600)
    async with serving(settings) as client:
        async with Connection(client, RUN, request_of("sleep 3600")):
            await until(settings, RUNNING)
        async with Connection(client, RUN, request_of("sleep 0")):
            await until(settings, CANCELLED, DONE)


async def test_of_runs_without_callers_one_that_waits_ends_none_that_runs(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, disconnect_grace=3600)
    async with serving(settings) as client:
        async with Connection(client, RUN, request_of("sleep 0.5")):
            await until(settings, RUNNING)
            async with Connection(client, RUN, request_of("sleep 0")):
                await until(settings, RUNNING, WAITING)
            # It waits without a caller, and the other one's goes, too.
        await until(settings, DONE, DONE)


async def test_a_free_slot_spares_a_run_without_a_caller(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, disconnect_grace=3600)
    options = WorkerOptions(weights=str(settings.weights))
    pool = InProcessPool(settings.worker, options, ["cpu", "cpu"])
    async with serving(settings, pool=pool) as client:
        async with Connection(client, RUN, request_of("sleep 3600")):
            await until(settings, RUNNING)

        assert (await client.post(RUN, json=request_of())).status_code == 200
        await until(settings, RUNNING, DONE)


class BesideAnother(JobStore):
    """A store beside another server, which claims each job as soon as it was seen, if it `claims`.

    A new one comes then.
    """

    claims = True
    looks = 0

    def claimable(self, **which: Any) -> set[str]:
        found = super().claimable(**which)
        self.looks += 1
        if self.claims:
            self.claim(f"gpu/{self.looks}")
            submit(self, f"job {self.looks}")
        return found


@pytest.mark.parametrize("claims", [True, False])
async def test_a_run_without_a_caller_makes_no_room_for_what_another_server_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claims: bool
) -> None:
    monkeypatch.setattr(disconnects, "CLAIMED_WITHIN_S", 0.0)
    with closing(Database(tmp_path / "jobs.sqlite3")) as database:
        store, signals = BesideAnother(database, owner="test"), Signals()
        store.claims = claims
        for job_id in ("run", "job 0"):
            submit(store, job_id)
        store.claim("gpu/0")
        runs = DisconnectedRuns(
            Submissions(store, None, None, signals, 9),  # type: ignore[arg-type]
            grace_s=3600,
            has_idle_slot=lambda: False,
            is_shared=True,
        )
        runs.disconnect(store.job("run"))
        while store.looks < 6 and not store.job("run").cancel_requested:
            signals.claimable.notify()
            await asyncio.sleep(0)

        assert store.job("run").cancel_requested is not claims
        await runs.close()


async def test_what_is_cancelled_for_want_of_a_caller_is_not_given_to_the_next(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path, disconnect_grace=0.0)
    async with serving(settings) as client:
        async with Connection(client, RUN, request_of("sleep 0.2")):
            await until(settings, RUNNING)
        await until(settings, CANCELLED)

        assert (await client.post(RUN, json=request_of("sleep 0.2"))).status_code == 200
        await until(settings, CANCELLED, DONE)


async def test_the_same_request_is_another_job_while_the_first_has_its_caller(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        answers = await asyncio.gather(*(client.post(RUN, json=request_of()) for _ in range(4)))

    assert len({answer.headers["x-fal-request-id"] for answer in answers}) == 4
    assert len({answer.json()["seed"] for answer in answers}) == 4


@pytest.mark.parametrize("difference", ["body", "key", "host"])
async def test_another_request_is_another_job(tmp_path: Path, difference: str) -> None:
    settings = settings_in(tmp_path, auth="on", key="me:s3cret")
    mine = by_key("me:s3cret")
    others = {
        "body": (mine, 8),
        "key": (by_key(add_key(settings)), 7),
        "host": (mine | {"host": "127.0.0.1:8000"}, 7),
    }
    headers, seed = others[difference]
    async with serving(settings) as client:
        async with Connection(client, RUN, request_of("sleep 3600", seed=7), mine):
            await until(settings, RUNNING)

        # The first makes room for it.
        async with Connection(client, RUN, request_of("sleep 3600", seed=seed), headers):
            await until(settings, CANCELLED, RUNNING)
    columns = {"body": "body_sha256", "key": "key_id", "host": "base_url"}
    kinds = {
        name: sql(settings.data / "jobs.sqlite3", f"SELECT count(DISTINCT {column}) FROM jobs")
        for name, column in columns.items()
    }
    assert kinds == {name: [(1 + (name == difference),)] for name in columns}


async def test_a_video_that_was_cut_off_on_its_way_is_there_when_asked_for_again(
    tmp_path: Path,
) -> None:
    """With `sync_mode` the answer is large, and the connection may break in the midst of it."""
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        body = request_of("bytes 20000000", sync_mode=True)
        async with Connection(client, RUN, body) as connection:
            while len(connection.sent) < 2:
                await asyncio.sleep(0)
        [(job, *_)] = await until(settings, DONE)

        answer = await client.post(RUN, json=body)

        assert answer.headers["x-fal-request-id"] == job
        assert len(answer.content) == int(answer.headers["content-length"])


async def test_runs_wait_for_their_callers_through_a_restart(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    body = request_of("sleep 0.2")
    async with serving(settings) as client, Connection(client, RUN, body):
        [(job, *_)] = await until(settings, RUNNING)

    async with serving(settings) as client:
        answer = await client.post(RUN, json=body)
        assert answer.headers["x-fal-request-id"] == job
        assert answer.status_code == 200


async def test_runs_whose_callers_do_not_return_after_a_restart_are_cancelled(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path, disconnect_grace=0.0)
    async with serving(settings) as client, Connection(client, RUN, request_of("sleep 3600")):
        await until(settings, RUNNING)
        job = (await client.post(f"/queue/{APP}/image-to-video", json=request_of())).json()

    async with serving(settings) as client:
        assert (await result_of(client, job["request_id"])).status_code == 200
        assert [row[1:] for row in jobs_in(settings)] == [CANCELLED, DONE]


async def test_a_run_that_came_before_the_last_ones_were_taken_up_keeps_its_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path, disconnect_grace=0.0)
    patient = settings_in(tmp_path, disconnect_grace=3600)
    async with serving(patient) as client, Connection(client, RUN, request_of("sleep 3600")):
        await until(settings, RUNNING)
    recover, tries, has_come = JobStore.recover, [], threading.Event()

    def recover_later(store: JobStore) -> Any:
        tries.append(store)
        if len(tries) == 1:
            raise Shortage("The disk is full.")
        has_come.wait(20)
        return recover(store)

    monkeypatch.setattr(JobStore, "recover", recover_later)
    monkeypatch.setattr("server.app.TRY_AGAIN_MAX_S", 0.0)
    async with serving(settings) as client:
        answer = asyncio.create_task(client.post(RUN, json=request_of("sleep 0.1")))
        await until(settings, WAITING, WAITING)
        has_come.set()

        assert (await answer).status_code == 200
        await until(settings, CANCELLED, DONE)


@pytest.mark.parametrize("method", ["job", "claimable", "request_cancel"])
async def test_a_run_without_a_caller_ends_although_the_tables_fail_for_a_while(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, calls = getattr(JobStore, method), []

    def fail_first(*args: Any, **kwargs: Any) -> Any:
        calls.append(method)
        if len(calls) == 1:
            raise Shortage("The disk is full.")
        return work(*args, **kwargs)

    monkeypatch.setattr("server.tasks.TRY_AGAIN_S", 0.0)
    settings = settings_in(tmp_path, disconnect_grace=3600)
    async with serving(settings) as client:
        async with Connection(client, RUN, request_of("sleep 3600")):
            await until(settings, RUNNING)
            job = (await client.post(f"/queue/{APP}/image-to-video", json=request_of())).json()
            monkeypatch.setattr(JobStore, method, fail_first)

        assert (await result_of(client, job["request_id"])).status_code == 200
        assert len(calls) > 1
        await until(settings, CANCELLED, DONE)
