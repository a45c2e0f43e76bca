"""A caller's wishes in the tables: a time to start in, a key against repeats, no traces."""

from typing import Any

import pytest
from job_fixtures import FAILURE, INVALID, Place, sql

from server.errors import IdempotencyMismatch, QueueFull, UnknownJob
from server.models import CANCELLED, TOO_LATE, JobStatus

DAY_S, TEN_MINUTES_S = 86_400.0, 600.0
NO_TRACES: list[dict[str, Any]] = [
    {"store_io": False},
    {"input": {"media": {}, "sync_mode": True}},
]


def test_a_job_that_is_not_started_in_time_ends(place: Place) -> None:
    place.submit("soon", start_timeout_s=5.0)
    place.submit("later", start_timeout_s=9.0)
    place.submit("whenever")

    assert place.store.end_late() == 5.0
    place.clock.now += 5.0
    assert place.store.end_late() == 0.0
    assert place.store.end_late() == 4.0

    assert place.store.job("soon").error == TOO_LATE
    assert place.store.job("later").status is JobStatus.IN_QUEUE


def test_without_times_to_start_in_there_is_nothing_to_wait_for(place: Place) -> None:
    place.submit("a")

    assert place.store.end_late() is None


def test_a_job_is_not_started_when_its_time_is_over(place: Place) -> None:
    place.submit("a", start_timeout_s=5.0)
    place.clock.now += 5.0

    assert place.store.claim("cpu") is None


def test_a_job_that_was_started_in_time_has_all_the_time(place: Place) -> None:
    place.submit("a", start_timeout_s=5.0)
    run = place.claim()
    place.clock.now += 60.0
    place.store.give_back("a", run.attempt)

    assert place.store.end_late() is None
    assert place.claim().id == "a"


def test_a_caller_who_wants_no_second_try_gets_none(place: Place) -> None:
    place.submit("a", no_retry=True)

    assert not place.store.worker_died("a", place.claim().attempt, FAILURE)

    assert place.store.job("a").error == FAILURE


def test_a_cancel_wins_where_there_is_no_second_try(place: Place) -> None:
    place.submit("a", no_retry=True)
    run = place.claim()
    place.store.request_cancel("a")

    place.store.worker_died("a", run.attempt, FAILURE)

    assert place.store.job("a").error == CANCELLED


@pytest.mark.parametrize("key_id", [None, "me"])
def test_a_request_that_is_submitted_twice_is_one_job(place: Place, key_id: str | None) -> None:
    wish: dict[str, Any] = {"key_id": key_id, "idempotency_key": "k", "body_sha256": "b"}
    first = place.submit("first", **wish)

    assert place.submit("second", limit=1, **wish).id == first.id
    assert place.store.resubmitted(key_id, "k", "b") == place.store.job("first")
    with pytest.raises(UnknownJob):
        place.store.job("second")


def test_an_idempotency_key_belongs_to_one_body_and_one_caller(place: Place) -> None:
    wish: dict[str, Any] = {"idempotency_key": "k", "body_sha256": "b"}
    place.submit("first", **wish)

    with pytest.raises(IdempotencyMismatch):
        place.submit("second", **(wish | {"body_sha256": "c"}))
    with pytest.raises(IdempotencyMismatch):
        place.store.resubmitted(None, "k", "c")
    assert place.submit("third", key_id="you", **wish).id == "third"
    assert place.store.resubmitted("me", "k", "b") is None


@pytest.mark.parametrize("key_id", [None, "me"])
def test_an_idempotency_key_is_free_again_when_its_job_is_gone(
    place: Place, key_id: str | None
) -> None:
    wish: dict[str, Any] = {"key_id": key_id, "idempotency_key": "k", "body_sha256": "b"}
    wish |= {"store_io": False}
    place.made("first", **wish)
    place.clock.now += DAY_S

    assert place.submit("second", **wish).id == "second"


def test_a_full_queue_refuses_a_new_request_with_any_idempotency_key(place: Place) -> None:
    place.submit("a")

    with pytest.raises(QueueFull):
        place.submit("b", limit=1, idempotency_key="k", body_sha256="b")


def test_only_unfinished_runs_wait_for_callers(place: Place) -> None:
    place.made("done", is_run=True)
    place.submit("running", is_run=True)
    place.claim()
    place.submit("waiting", is_run=True)
    place.submit("queued")

    assert [job.id for job in place.store.unfinished_runs()] == ["running", "waiting"]


def test_a_line_is_told_once_to_each_job_that_waits(place: Place) -> None:
    place.submit("running")
    place.claim()
    place.submit("first")
    place.store.log_to_waiting("Loading the model")
    place.submit("second")
    for _ in range(2):
        place.store.log_to_waiting("Loading the model")

    for job, count in (("running", 0), ("first", 1), ("second", 1)):
        lines = place.store.standing(job).lines
        assert [line.message for line in lines] == ["Loading the model"] * count


def test_input_is_not_stored_any_longer_than_the_job_needs_it(place: Place) -> None:
    place.submit("a", store_io=False)
    assert place.claim().input["spec"] == {"prompt": "a secret"}
    place.store.finish("a", 1, error=FAILURE)

    assert place.rows("SELECT CAST(input AS TEXT) FROM jobs") == [('{"sync_mode": false}',)]


@pytest.mark.parametrize("wish", NO_TRACES)
def test_ten_minutes_after_its_output_was_fetched_a_job_is_gone(
    place: Place, wish: dict[str, Any]
) -> None:
    job, _ = place.made("a", **wish)
    place.clock.now += 100.0
    place.retention.fetched(job)
    place.clock.now += TEN_MINUTES_S / 2
    place.retention.fetched(job)
    assert place.store.job("a").done

    place.clock.now += TEN_MINUTES_S / 2

    with pytest.raises(UnknownJob):
        place.store.job("a")
    with pytest.raises(UnknownJob):
        place.store.standing("a")


@pytest.mark.parametrize("wish", NO_TRACES)
def test_a_job_whose_output_is_never_fetched_is_gone_after_a_day(
    place: Place, wish: dict[str, Any]
) -> None:
    place.made("a", **wish)
    place.clock.now += DAY_S - 1
    assert place.store.job("a").done

    place.clock.now += 1

    with pytest.raises(UnknownJob):
        place.store.job("a")


def test_an_error_is_gone_in_the_same_time(place: Place) -> None:
    job = place.submit("a", input={}, error=INVALID, store_io=False)
    place.retention.fetched(job)
    place.clock.now += TEN_MINUTES_S

    with pytest.raises(UnknownJob):
        place.store.job("a")


def test_an_ordinary_job_stays_however_often_it_is_fetched(place: Place) -> None:
    job, video = place.made("a")
    place.retention.fetched(job)
    place.clock.now += 100 * DAY_S
    place.retention.sweep()

    assert place.store.job("a") == job
    assert place.store.artifact(video.id) == video
    assert place.was_told == 0


def test_with_its_job_a_video_that_had_no_url_goes_row_and_file(place: Place) -> None:
    _, video = place.made("a", input={"media": {}, "sync_mode": True})
    place.made("b")
    place.clock.now += DAY_S
    place.retention.sweep()

    assert place.rows("SELECT id FROM jobs") == [("b",)]
    assert place.store.artifact(video.id) is None
    assert video.id not in set(place.files.ids())
    assert place.rows("SELECT job_id FROM artifacts") == [("b",)]
    assert place.was_told == 1


def test_a_video_whose_url_was_given_out_outlives_the_job(place: Place) -> None:
    _, video = place.made("a", store_io=False)
    place.clock.now += DAY_S
    place.retention.sweep()

    assert place.rows("SELECT id FROM jobs") == []
    assert place.store.artifact(video.id) == video
    assert place.files.read(video.id) == b"video"


def test_a_video_goes_when_its_lifetime_is_over_and_its_job_stays(place: Place) -> None:
    _, video = place.made("a", file_lifetime_s=60.0)
    place.clock.now += 59.0
    place.retention.sweep()
    assert place.files.read(video.id) == b"video"

    place.clock.now += 1.0
    assert place.store.artifact(video.id) is None
    place.retention.sweep()

    assert place.rows("SELECT id FROM artifacts") == []
    assert video.id not in set(place.files.ids())
    assert place.store.job("a").done


def test_an_output_waits_for_its_webhook(place: Place) -> None:
    job, _ = place.made("a", store_io=False, webhook_url="https://example.com/hook")
    place.retention.fetched(job)
    place.clock.now += TEN_MINUTES_S
    assert place.store.job("a").done

    sql(place.where, "UPDATE webhooks SET delivered_at = 1.0, not_before = NULL")
    place.retention.fetched(job)
    place.clock.now += TEN_MINUTES_S

    with pytest.raises(UnknownJob):
        place.store.job("a")
