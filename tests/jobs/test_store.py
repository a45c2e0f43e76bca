"""The tables are the truth: what is committed, in which order, and who may still write."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from job_fixtures import FAILURE, INVALID, Clock, Where, artifact, new_job, sql
from sqlalchemy import LargeBinary

from server.db import tables
from server.db.database import Database
from server.errors import QueueFull, UnknownJob
from server.jobs.store import JobStore
from server.models import (
    CANCELLED,
    CancelAnswer,
    Job,
    JobProgress,
    JobStatus,
    LogLine,
    RunUpdate,
)

PIXELS, VIDEO = artifact("pixels-96x64-abc", "pixels"), artifact("0123")
RESULT = {"video": {"artifact": VIDEO.id}, "seed": 3}


@pytest.fixture
def store(where: Where, clock: Clock) -> Iterator[JobStore]:
    with closing(Database(where)) as database:
        yield JobStore(database, owner="this server", now=clock)


def submit(
    store: JobStore, job_id: str, *, ready: bool = True, limit: int = 100, **changes: Any
) -> Job:
    job = store.submit(new_job(job_id, **changes), queue_limit=limit)
    if ready:
        store.set_inputs(job_id, {"image": PIXELS})
    return job


def claim(store: JobStore) -> Job:
    job = store.claim("cpu")
    assert job is not None
    return job


def queued(where: Where) -> int:
    [(count,)] = sql(where, "SELECT count(*) FROM jobs WHERE status = 'IN_QUEUE'")
    return int(count)


def test_a_submitted_job_is_there_for_every_other_connection(store: JobStore, where: Where) -> None:
    submit(store, "a")

    assert sql(where, "SELECT id, status FROM jobs") == [("a", "IN_QUEUE")]


def test_the_database_keeps_what_it_has_committed_through_a_loss_of_power(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "jobs.sqlite3")) as database, database.read() as db:
        pragmas = {
            name: db.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }

    kept = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}
    assert pragmas == kept


def test_jobs_are_claimed_by_priority_and_then_by_age(store: JobStore) -> None:
    submit(store, "low", priority=-1)
    submit(store, "first")
    submit(store, "second")
    submit(store, "high", priority=1)

    assert [claim(store).id for _ in range(4)] == ["high", "first", "second", "low"]
    assert store.claim("cpu") is None


def test_a_job_is_claimable_only_with_its_inputs(store: JobStore) -> None:
    submit(store, "waits", ready=False)
    submit(store, "ready")

    assert claim(store).id == "ready"
    assert store.claim("cpu") is None
    waits = store.awaiting_inputs(4)
    assert waits is not None
    assert waits.id == "waits"
    assert store.awaiting_inputs(4, [waits]) is None

    store.set_inputs("waits", {"image": PIXELS})

    assert claim(store).input_refs == {"image": PIXELS.id}
    assert store.artifact(PIXELS.id) == PIXELS


def test_jobs_become_visible_in_the_order_of_their_places(store: JobStore) -> None:
    """One that is committed late would otherwise be overtaken, and then move others back."""
    with ThreadPoolExecutor(1) as threads:

        def meanwhile() -> None:
            second.append(threads.submit(submit, store, "second"))
            with pytest.raises(TimeoutError):
                second[0].result(timeout=0.2)

        second: list[Future[Job]] = []
        store.submit(new_job("first", input_refs={}), queue_limit=9, place=meanwhile)
        second[0].result()

    assert [claim(store).id for _ in range(2)] == ["first", "second"]


def test_an_end_that_was_committed_unseen_is_the_same_end_again(store: JobStore) -> None:
    """The connection may break with the commit: then it is tried again, and has been published."""
    submit(store, "a")
    run = claim(store)
    assert store.finish("a", run.attempt, result=RESULT, artifacts=[VIDEO])

    assert store.finish("a", run.attempt, result=RESULT, artifacts=[VIDEO])
    assert not store.finish("a", run.attempt, result=RESULT, artifacts=[artifact("4567")])


def test_a_claim_says_who_runs_the_job_where_and_for_which_time(
    store: JobStore, where: Where, clock: Clock
) -> None:
    submit(store, "a")
    clock.now = 1005.0
    job = claim(store)

    assert (job.status, job.attempt, job.slot) == (JobStatus.IN_PROGRESS, 1, "cpu")
    assert (job.submitted_at, job.started_at) == (1000.0, 1005.0)
    assert sql(where, "SELECT claimed_by FROM jobs") == [("this server",)]


def test_two_claims_never_get_the_same_job(store: JobStore) -> None:
    for number in range(12):
        submit(store, str(number))

    with ThreadPoolExecutor(6) as threads:
        claimed = list(threads.map(lambda _: claim(store).id, range(12)))

    assert sorted(claimed) == sorted(str(number) for number in range(12))


def test_processes_that_write_at_once_wait_for_each_other(store: JobStore, where: Where) -> None:
    with (
        closing(Database(where)) as database,
        ThreadPoolExecutor(2) as threads,
    ):
        other = JobStore(database, owner="another server")
        for _ in range(2):
            numbers = range(queued(where), queued(where) + 40)
            stores = [store, other] * 20
            list(threads.map(lambda each, n: submit(each, str(n)), stores, numbers))

    assert queued(where) == 80


def test_the_position_counts_the_jobs_ahead(store: JobStore) -> None:
    low = submit(store, "low", priority=-1)
    first = submit(store, "first")
    second = submit(store, "second")

    assert [store.standing(job.id).position for job in (first, second, low)] == [0, 1, 2]
    claim(store)
    assert [store.standing(job.id).position for job in (second, low)] == [0, 1]


def test_a_full_queue_refuses_and_running_jobs_do_not_count(store: JobStore, where: Where) -> None:
    submit(store, "a", limit=1)
    with pytest.raises(QueueFull, match="1 requests are waiting"):
        submit(store, "b", limit=1)
    with pytest.raises(UnknownJob):
        store.job("b")

    claim(store)
    submit(store, "c", limit=1)
    assert queued(where) == 1


def test_invalid_input_makes_a_job_that_is_done_when_it_is_committed(store: JobStore) -> None:
    job = submit(store, "a", error=INVALID, ready=False, limit=1)

    assert job.done
    assert job.error == INVALID
    assert store.awaiting_inputs(4) is None
    assert store.claim("cpu") is None


def test_a_result_its_files_and_the_webhook_are_committed_together(
    store: JobStore, where: Where, clock: Clock
) -> None:
    submit(store, "a", webhook_url="https://example.com/hook")
    run = claim(store)
    clock.now = 1042.0

    assert store.finish("a", run.attempt, result=RESULT, artifacts=[VIDEO])

    job = store.job("a")
    assert (job.status, job.result, job.error) == (JobStatus.COMPLETED, RESULT, None)
    assert job.inference_seconds == 42.0
    assert store.artifact(VIDEO.id) == VIDEO
    assert sql(where, "SELECT job_id, url, tries FROM webhooks") == [
        ("a", "https://example.com/hook", 0)
    ]


def test_a_job_that_is_over_when_it_is_submitted_has_its_webhook_too(
    store: JobStore, where: Where
) -> None:
    submit(store, "a", webhook_url="https://example.com:8443/hook?x=1", error=INVALID, ready=False)

    assert sql(where, "SELECT job_id, receiver, not_before FROM webhooks") == [
        ("a", "example.com:8443", 1000.0)
    ]


def test_a_result_is_never_changed(store: JobStore) -> None:
    submit(store, "a")
    run = claim(store)
    store.finish("a", run.attempt, result=RESULT)
    before = store.job("a")

    assert not store.finish("a", run.attempt, error=FAILURE)
    store.give_back("a", run.attempt)
    store.refuse_inputs("a", INVALID)
    store.record([RunUpdate("a", run.attempt, [LogLine(1.0, "INFO", "late")])])
    assert store.request_cancel("a") is CancelAnswer.ALREADY_COMPLETED

    assert store.job("a") == before
    assert list(store.standing("a").lines) == []


def test_a_run_that_was_given_up_cannot_write(store: JobStore) -> None:
    submit(store, "a")
    old = claim(store)
    store.give_back("a", old.attempt)
    new = claim(store)

    assert not store.finish("a", old.attempt, result=RESULT, artifacts=[VIDEO])
    stale = [LogLine(1.0, "INFO", "stale")]
    store.record([RunUpdate("a", old.attempt, stale, JobProgress("denoise", 1, 2))])
    assert not store.worker_died("a", old.attempt, FAILURE)
    store.give_back("a", old.attempt)

    assert new.attempt == old.attempt + 1
    assert store.job("a") == new
    assert list(store.standing("a").lines) == []
    assert store.standing("a").progress is None
    assert store.artifact(VIDEO.id) is None
    assert store.runs_to_stop({"a": old.attempt}) == {"a"}, "the old run is to stop"
    assert store.runs_to_stop({"a": new.attempt}) == set()


def test_a_job_that_is_given_back_keeps_its_place(store: JobStore) -> None:
    submit(store, "first")
    submit(store, "second")
    run = claim(store)
    store.give_back("first", run.attempt)

    again = claim(store)
    assert (again.id, again.attempt, again.worker_deaths) == ("first", 2, 0)


def test_a_job_can_be_given_back_to_have_its_inputs_prepared_anew(store: JobStore) -> None:
    submit(store, "a")
    store.give_back("a", claim(store).attempt, keeps_inputs=False)

    assert store.claim("cpu") is None
    assert store.awaiting_inputs(4) == store.job("a")


def test_a_job_that_two_workers_died_on_is_given_up(store: JobStore) -> None:
    submit(store, "a")

    assert store.worker_died("a", claim(store).attempt, FAILURE)
    assert store.job("a").status is JobStatus.IN_QUEUE
    assert not store.worker_died("a", claim(store).attempt, FAILURE)

    job = store.job("a")
    assert (job.done, job.error, job.worker_deaths) == (True, FAILURE, 2)


def test_a_job_that_waits_is_cancelled_at_once(store: JobStore) -> None:
    submit(store, "a")

    assert store.request_cancel("a") is CancelAnswer.REQUESTED

    assert store.job("a").error == CANCELLED
    assert store.claim("cpu") is None
    assert store.request_cancel("a") is CancelAnswer.ALREADY_COMPLETED


def test_a_cancel_that_was_committed_wins_over_the_result(store: JobStore) -> None:
    submit(store, "a")
    run = claim(store)

    assert store.request_cancel("a") is CancelAnswer.REQUESTED
    assert store.runs_to_stop({"a": run.attempt}) == {"a"}
    assert not store.finish("a", run.attempt, result=RESULT, artifacts=[VIDEO])

    assert store.job("a").error == CANCELLED
    assert store.job("a").result is None
    assert store.artifact(VIDEO.id) is None


@pytest.mark.parametrize("end", ["given back", "worker died", "server died"])
def test_a_job_whose_cancel_was_asked_for_is_not_run_again(store: JobStore, end: str) -> None:
    submit(store, "a")
    run = claim(store)
    store.request_cancel("a")

    match end:
        case "given back":
            store.give_back("a", run.attempt)
        case "worker died":
            assert not store.worker_died("a", run.attempt, FAILURE)
        case "server died":
            store.recover()

    assert store.job("a").error == CANCELLED
    assert store.claim("cpu") is None


def test_jobs_outlive_the_server(where: Where, clock: Clock) -> None:
    with closing(Database(where)) as database:
        store = JobStore(database, owner="this server", now=clock)
        submit(store, "running")
        submit(store, "waiting")
        submit(store, "failed", ready=False)
        store.refuse_inputs("failed", INVALID)
        old = claim(store)

    with closing(Database(where)) as database:
        restarted = JobStore(database, owner="the next server", now=clock)
        assert restarted.recover() == 1
        assert restarted.job("failed").error == INVALID
        again = claim(restarted)
        assert (again.id, again.attempt, again.worker_deaths) == ("running", 2, 0)
        assert claim(restarted).id == "waiting"
        assert not restarted.finish("running", old.attempt, result=RESULT)


def test_log_lines_and_progress_are_those_of_the_run(store: JobStore) -> None:
    submit(store, "a")
    run = claim(store)
    first, second = LogLine(1.0, "INFO", "Reading the prompt"), LogLine(2.0, "INFO", "Denoising")
    store.record([RunUpdate("a", run.attempt, [first], JobProgress("text"))])
    store.record([RunUpdate("a", run.attempt, [second], JobProgress("denoise", 2, 35))])
    store.record([RunUpdate("a", run.attempt, [])])

    assert list(store.standing("a").lines) == [first, second]
    assert store.standing("a").progress == JobProgress("denoise", 2, 35)


def test_runs_are_recorded_together_and_one_that_lost_its_job_is_left_out(
    store: JobStore,
) -> None:
    for job_id in ("a", "b", "c"):
        submit(store, job_id)
    runs = {job_id: claim(store).attempt for job_id in ("a", "b", "c")}
    store.record([RunUpdate("a", runs["a"], [], JobProgress("text"))])
    store.give_back("c", runs["c"])

    lines = {job_id: [LogLine(1.0, "INFO", job_id)] for job_id in runs}
    told = [RunUpdate(id_, at, lines[id_], JobProgress("image")) for id_, at in runs.items()]
    store.record(told)

    standing = {job_id: store.standing(job_id) for job_id in runs}
    assert {id_: list(each.lines) for id_, each in standing.items()} == {**lines, "c": []}
    image = JobProgress("image")
    assert [each.progress for each in standing.values()] == [image, image, None]


def test_an_unknown_id_is_said_to_be_unknown(store: JobStore) -> None:
    with pytest.raises(UnknownJob):
        store.job("a")
    with pytest.raises(UnknownJob):
        store.request_cancel("a")
    assert store.artifact("a") is None


def test_media_never_enter_a_table() -> None:
    columns = [column for table in tables.metadata.sorted_tables for column in table.columns]
    assert not any(isinstance(column.type, LargeBinary) for column in columns)
