"""When a request will start: the work in front, on the slots that there are."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from job_fixtures import Place, Where
from sqlalchemy import Connection, update

from pipeline.spec import VideoSpec
from server.db import tables
from server.jobs import estimates, pause
from server.jobs.estimates import Estimates, wait_of
from server.jobs.pace import Pace
from server.models import RunUpdate

ENDPOINT = "fal-ai/cosmos-predict-2.5/image-to-video"
OTHER = "fal-ai/cosmos-predict-2.5/text-to-video"
SPEC = VideoSpec(prompt="a secret", seed=0, num_frames=25, num_inference_steps=10)
SECONDS = {"denoise": 50.0, "decode": 10.0}


class Queue(Place):
    """The tables of a server of some slots, where videos of `SPEC` take a minute."""

    def __init__(self, folder: Path, where: Where | None = None) -> None:
        super().__init__(folder, where)
        self.num_slots = 1
        pace = Pace(96, 64, 45)
        self.estimates = Estimates(self.database, pace, lambda: self.num_slots, now=self.clock)
        self.store.on_write(self.estimates.written)

    def add(self, job_id: str, *, endpoint: str = ENDPOINT, **changes: Any) -> None:
        input_ = {"spec": SPEC.to_json(), "media": {}, "sync_mode": False}
        self.submit(job_id, **({"input": input_, "endpoint": endpoint} | changes))

    def measure(self, endpoint: str = ENDPOINT, **changes: Any) -> None:
        self.add(f"measured {endpoint} {self.clock.now}", endpoint=endpoint, **changes)
        job = self.claim()
        result = {"seed": 1, "stage_seconds": SECONDS}
        assert self.store.finish(job.id, job.attempt, result=result)
        self.clock.now += 1

    def wait_s(self, priority: int = 0) -> float | None:
        return self.estimates.of_request(ENDPOINT, SPEC, priority).wait_s


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(tmp_path)
    yield queue
    queue.database.close()


def test_work_goes_to_the_slots_that_are_free_first() -> None:
    assert wait_of([0.0, 60.0], 0.0) == 0.0
    assert wait_of([30.0], 60.0) == 90.0
    # 30 s until the other slot is free, too; then they share what is left.
    assert wait_of([0.0, 30.0], 90.0) == 60.0


def test_before_anything_was_measured_nothing_is_said_but_that_a_slot_is_free(
    queue: Queue,
) -> None:
    found = queue.estimates.of_request(ENDPOINT, SPEC, priority=0)
    assert (found.stage_seconds, found.seconds) == (None, None)
    assert (found.position, found.wait_s, found.starts_at) == (0, 0.0, queue.clock.now)
    queue.add("a")
    found = queue.estimates.of_request(ENDPOINT, SPEC, priority=0)
    assert (found.position, found.wait_s, found.starts_at) == (1, None, None)


def test_the_wait_is_what_runs_and_what_waits_in_front(queue: Queue) -> None:
    queue.measure()
    for job_id in "abc":
        queue.add(job_id)
    queue.claim()
    queue.clock.now += 20
    found = queue.estimates.of_request(ENDPOINT, SPEC, priority=0)
    assert (found.position, found.wait_s) == (2, 40.0 + 2 * 60.0)
    assert found.starts_at == queue.clock.now + 160.0
    assert queue.estimates.of_waiting(queue.store.job("c")).wait_s == 40.0 + 60.0
    assert queue.estimates.of_waiting(queue.store.job("b")).wait_s == 40.0
    queue.num_slots = 2
    assert queue.wait_s() == 80.0
    # It should have been done by now.
    queue.clock.now += 900
    queue.num_slots = 1
    assert queue.wait_s() == 120.0


def test_what_goes_first_counts_and_what_goes_later_does_not(queue: Queue) -> None:
    queue.measure()
    queue.add("first", priority=1)
    queue.add("second")
    assert queue.wait_s() == 120.0
    assert queue.wait_s(priority=1) == 60.0
    assert queue.estimates.of_waiting(queue.store.job("first")).wait_s == 0.0


@pytest.mark.parametrize("state", ["paused", "no slot", "of another kind in front"])
def test_a_wait_that_cannot_be_known_is_none(queue: Queue, state: str) -> None:
    queue.measure()
    queue.add("a", endpoint=OTHER if state == "of another kind in front" else ENDPOINT)
    if state == "paused":
        pause.pause(queue.database)
    if state == "no slot":
        queue.num_slots = 0
    found = queue.estimates.of_request(ENDPOINT, SPEC, priority=0)
    assert (found.wait_s, found.starts_at) == (None, None)
    assert found.stage_seconds == SECONDS


def test_one_job_with_the_character_0_breaks_no_other_s_estimate(
    tmp_path: Path, where: Where
) -> None:
    """It was taken before, and PostgreSQL's functions for JSON fail on it."""
    queue = Queue(tmp_path, where)
    with closing(queue.database):
        for job_id in ("measured", "runs", "waits"):
            spec = replace(SPEC, prompt="a\0b").to_json()
            queue.submit(job_id, input={"spec": spec, "media": {}, "sync_mode": False})
            if job_id == "measured":
                result = {"seed": 1, "stage_seconds": SECONDS}
                job = queue.claim()
                assert queue.store.finish(job.id, job.attempt, result=result)
                queue.clock.now += 1
            if job_id == "runs":
                queue.claim()

        assert queue.wait_s() == 120.0


def test_an_input_is_read_once(queue: Queue) -> None:
    queue.measure()
    queue.add("a")
    assert queue.wait_s() == 60.0
    with queue.database.write() as db:
        db.execute(update(tables.jobs).values(input={}))
    queue.add("b")
    assert queue.wait_s() == 120.0


def test_a_job_whose_input_was_not_to_be_kept_teaches_nothing(queue: Queue) -> None:
    queue.measure(store_io=False)
    assert queue.estimates.of_request(ENDPOINT, SPEC, priority=0).stage_seconds is None


def test_what_ends_later_is_learned_later_also_after_the_clock_was_set_back(
    queue: Queue,
) -> None:
    queue.clock.now += 3600
    queue.measure(OTHER)
    queue.clock.now -= 3600
    assert queue.estimates.of_request(ENDPOINT, SPEC, priority=0).stage_seconds is None
    queue.measure()
    assert queue.estimates.of_request(ENDPOINT, SPEC, priority=0).stage_seconds == SECONDS


def test_the_tables_are_read_once_for_all_who_ask_until_something_is_written(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "LOOK_AGAIN_S", 3600.0)
    queue.add("a")
    queue.add("b")
    num_reads, read = 0, queue.database.read

    def counted() -> AbstractContextManager[Connection]:
        nonlocal num_reads
        num_reads += 1
        return read()

    monkeypatch.setattr(queue.database, "read", counted)
    first, second = queue.store.job("a"), queue.store.job("b")
    num_reads = 0

    places = [queue.estimates.of_waiting(each).position for each in (first, second, first)]
    assert (places, num_reads) == ([0, 1, 0], 1)
    queue.store.record([RunUpdate("a", 0, [])])
    queue.estimates.of_request(ENDPOINT, SPEC, priority=0)
    assert num_reads == 1
    queue.add("c")
    assert queue.estimates.of_request(ENDPOINT, SPEC, priority=0).position == 3
