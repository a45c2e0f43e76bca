"""Leases: what a server goes on having, what others take over, and what it stops itself."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from job_fixtures import Where, let_leases_lapse, new_job, submit

from server.db.database import Database
from server.errors import Shortage
from server.jobs import leases
from server.jobs.leases import RENEW_EVERY_S, STOP_AFTER_S, Leases
from server.jobs.store import JobStore
from server.models import JobStatus
from server.tasks import Signal


@pytest.fixture
def two(where: Where) -> Iterator[tuple[JobStore, JobStore]]:
    """Two servers' stores on one database."""
    with closing(Database(where)) as one, closing(Database(where)) as other:
        yield JobStore(one, owner="one"), JobStore(other, owner="other")


def test_a_job_is_taken_over_when_its_lease_has_lapsed(
    two: tuple[JobStore, JobStore], where: Where
) -> None:
    one, other = two
    for job_id in ("renewed", "lapsed"):
        submit(one, job_id)
        one.claim("cpu")
    assert other.take_over() == 0

    let_leases_lapse(where)
    other.renew(["renewed"])  # it is not the other's to renew
    one.renew(["renewed"])
    assert other.take_over() == 1
    assert one.job("renewed").status is JobStatus.IN_PROGRESS
    again = other.claim("cpu")
    assert again is not None
    assert (again.id, again.attempt, again.worker_deaths) == ("lapsed", 2, 0)
    assert not one.finish("lapsed", 1, result={})
    one.renew(["lapsed"])
    let_leases_lapse(where)
    assert one.take_over() == 2


def test_the_media_of_a_job_are_prepared_by_one_server(
    two: tuple[JobStore, JobStore], where: Where
) -> None:
    one, other = two
    one.submit(new_job("a"), queue_limit=1)
    job = one.awaiting_inputs(4)
    assert job is not None
    assert (one.awaiting_inputs(4, [job]), other.awaiting_inputs(4)) == (None, None)

    let_leases_lapse(where)
    assert other.awaiting_inputs(4) == job
    other.let_go(["a"])
    assert one.awaiting_inputs(4) == job
    one.set_inputs("a", {})
    assert (one.awaiting_inputs(4), other.awaiting_inputs(4)) == (None, None)


class Away:
    """A store whose database does not answer."""

    def __init__(self) -> None:
        self.tries = 0

    def renew(self, _job_ids: object) -> None:
        self.tries += 1
        raise Shortage("The database is away.")


@pytest.mark.parametrize("is_shared", [True, False])
async def test_runs_are_stopped_before_others_have_their_jobs(
    monkeypatch: pytest.MonkeyPatch, is_shared: bool
) -> None:
    times = iter([0.0, 0.0, RENEW_EVERY_S, RENEW_EVERY_S, STOP_AFTER_S + 1])
    monkeypatch.setattr(leases, "uptime", lambda: next(times, STOP_AFTER_S + 1))
    monkeypatch.setattr(leases, "_TRY_AGAIN_S", 0.0)
    store, run = Away(), asyncio.create_task(asyncio.sleep(3600))
    kept = Leases(store, Signal(), lambda: {"a": run}, is_shared=is_shared)  # type: ignore[arg-type]
    keeping = asyncio.create_task(kept.run())
    while store.tries < 6:
        assert store.tries > 1 or not run.cancelled()
        await asyncio.sleep(0)

    assert run.cancelled() is is_shared
    for task in (keeping, run):
        task.cancel()
    await asyncio.gather(keeping, run, return_exceptions=True)


async def test_leases_are_renewed_while_every_shared_thread_waits_for_a_bucket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket, store, renewed = threading.Event(), Away(), threading.Event()
    monkeypatch.setattr(store, "renew", lambda _job_ids: renewed.set())
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    run, waiting = asyncio.create_task(asyncio.sleep(3600)), asyncio.to_thread(bucket.wait, 5)
    kept = Leases(store, Signal(), lambda: {"a": run}, is_shared=True)  # type: ignore[arg-type]
    tasks = [asyncio.create_task(waiting), asyncio.create_task(kept.run()), run]
    while not renewed.is_set() and not tasks[0].done():
        await asyncio.sleep(0.01)

    assert not tasks[0].done()
    bucket.set()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
