"""What was used: a row for each job that ended, with its end, which outlives the job."""

import pytest
from job_fixtures import FAILURE, INVALID, Place, new_job
from sqlalchemy.exc import IntegrityError

from server.db import tables
from server.jobs import usage
from server.jobs.retention import Purge, purge
from server.jobs.usage import EndedJob, ended_jobs
from server.models import CANCELLED, JobError, JobStatus


def used(place: Place, **which: object) -> list[EndedJob]:
    return list(ended_jobs(place.database, 0, 10**9, **which))  # type: ignore[arg-type]


def test_a_video_is_counted_with_its_seconds(place: Place) -> None:
    place.submit("a", key_id="me")
    place.clock.now += 5
    job = place.store.claim("cuda:0+cuda:1")
    assert job is not None
    place.clock.now += 10
    stages = {"text": 1.0, "denoise": 8.0}
    place.store.finish(
        job.id, job.attempt, result={"video": {"artifact": "x"}, "stage_seconds": stages}
    )
    assert used(place) == [
        EndedJob(
            ended_at=place.clock.now,
            key_id="me",
            endpoint=job.endpoint,
            http_status=200,
            error_type=None,
            waited_s=5.0,
            run_s=10.0,
            gpu_s=20.0,
            stage_seconds=stages,
        )
    ]


def test_every_way_to_end_is_counted_once(place: Place) -> None:
    place.submit("failed")
    job = place.claim()
    place.store.finish(job.id, job.attempt, error=FAILURE)
    place.store.submit(new_job("invalid", error=INVALID), queue_limit=9)
    place.submit("cancelled")
    place.store.request_cancel("cancelled")
    place.store.request_cancel("cancelled")
    place.submit("flushed")
    place.store.end_waiting(CANCELLED, of=["another endpoint"])
    assert place.store.job("flushed").status is JobStatus.IN_QUEUE
    place.store.end_waiting(CANCELLED, of=[job.endpoint])
    place.submit("stopped")
    place.claim()
    place.store.request_cancel("stopped")
    place.store.recover()

    assert [(each.http_status, each.error_type, each.run_s) for each in used(place)] == [
        (500, "runner_server_error", 0.0),
        (422, None, None),
        (499, "client_cancelled", None),
        (499, "client_cancelled", None),
        (499, "client_cancelled", 0.0),
    ]


def test_a_run_that_is_given_up_is_not_counted(place: Place) -> None:
    place.submit("a")
    job = place.claim()
    place.clock.now += 100
    place.store.give_back(job.id, job.attempt)
    place.clock.now += 50
    job = place.claim()
    place.clock.now += 3
    place.store.finish(job.id, job.attempt, error=FAILURE)
    (row,) = used(place)
    assert (row.waited_s, row.run_s, row.gpu_s) == (150.0, 3.0, 3.0)


def test_it_outlives_the_job_and_its_payloads(place: Place) -> None:
    place.made("purged")
    place.made("deleted")
    before = used(place)
    place.retention.delete_payloads("deleted")
    purge(place.database, place.files, Purge(ended_before=place.clock.now))
    assert place.rows("SELECT count(*) FROM jobs") == [(0,)]
    assert used(place) == before
    assert len(before) == 2


def test_without_it_nothing_ends(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.submit("a")
    job = place.claim()
    failing = tables.usage.insert().values(ended_at=None)
    monkeypatch.setattr(usage, "count_end", lambda db, *_, **__: db.execute(failing))
    monkeypatch.setattr("server.jobs.statements.count_end", usage.count_end)
    with pytest.raises(IntegrityError):
        place.store.finish(job.id, job.attempt, error=JobError(500, {"detail": "x"}))
    assert place.store.job("a").status is JobStatus.IN_PROGRESS


def test_rows_are_of_a_window_of_keys_and_of_endpoints(place: Place) -> None:
    for name, key_id, endpoint in (("a", None, "x"), ("b", "me", "x"), ("c", "me", "y")):
        place.submit(name, key_id=key_id, endpoint=endpoint)
        place.store.request_cancel(name)
        place.clock.now += 10
    assert [each.key_id for each in used(place)] == [None, "me", "me"]
    assert [each.endpoint for each in used(place, key_ids=["me"])] == ["x", "y"]
    assert [each.key_id for each in used(place, endpoints=["x"])] == [None, "me"]
    found = ended_jobs(place.database, 1010.0, 1020.0)
    assert [each.ended_at for each in found] == [1010.0]
