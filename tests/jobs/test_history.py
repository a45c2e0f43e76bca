"""Requests that have ended, in pages."""

from typing import Any

import pytest
from job_fixtures import FAILURE, Place

from server.jobs.history import Outcome, SortBy, Wanted, requests

ENDPOINT = "fal-ai/cosmos-predict-2.5/image-to-video"


def wanted(**changes: Any) -> Wanted:
    plain: dict[str, Any] = {"start": 0.0, "end": 10.0**9, "endpoints": [ENDPOINT]}
    return Wanted(**(plain | changes))


def pages(place: Place, which: Wanted, limit: int) -> list[list[str]]:
    found, at = [], None
    while True:
        page = requests(place.database, which, place.clock.now, limit=limit, after=at)
        found.append([job.id for job in page.jobs])
        at = page.next
        if at is None:
            return found


@pytest.fixture
def three(place: Place) -> Place:
    """Of which the second took longest."""
    for name, seconds in (("a", 5.0), ("b", 30.0), ("c", 10.0)):
        place.submit(name)
        job = place.claim()
        place.clock.now += seconds
        place.store.finish(job.id, job.attempt, error=FAILURE)
    return place


@pytest.mark.parametrize(
    ("sort_by", "expected"),
    [(SortBy.ENDED_AT, [["c", "b"], ["a"]]), (SortBy.DURATION, [["b", "c"], ["a"]])],
)
def test_pages_are_in_order(three: Place, sort_by: SortBy, expected: list[list[str]]) -> None:
    assert pages(three, wanted(sort_by=sort_by), 2) == expected


def test_jobs_that_end_at_the_same_time_are_listed_once(place: Place) -> None:
    for number in range(5):
        place.submit(str(number))
        place.store.request_cancel(str(number))
    assert pages(place, wanted(), 2) == [["4", "3"], ["2", "1"], ["0"]]


def test_a_page_stays_where_it_was_when_more_ends(three: Place) -> None:
    first = requests(three.database, wanted(), three.clock.now, limit=1)
    three.submit("d")
    three.store.request_cancel("d")
    second = requests(three.database, wanted(), three.clock.now, limit=1, after=first.next)
    assert [job.id for job in (*first.jobs, *second.jobs)] == ["c", "b"]


def test_what_has_not_ended_or_is_no_longer_kept_is_not_listed(place: Place) -> None:
    place.made("kept")
    place.made("expired", store_io=False)
    place.submit("waits")
    assert pages(place, wanted(), 9) == [["expired", "kept"]]
    place.clock.now += 10**6
    assert pages(place, wanted(), 9) == [["kept"]]


def test_jobs_are_found_by_what_is_known_of_them(place: Place) -> None:
    place.made("video", key_id="me")
    place.submit("cancelled", key_id="me")
    place.store.request_cancel("cancelled")
    place.submit("failed", key_id="another")
    job = place.claim()
    place.clock.now += 10
    place.store.finish(job.id, job.attempt, error=FAILURE)

    def found(**which: Any) -> list[str]:
        return pages(place, wanted(**which), 9)[0]

    assert found(outcome=Outcome.SUCCESS) == ["video"]
    assert found(outcome=Outcome.USER_ERROR) == ["cancelled"]
    assert found(outcome=Outcome.ERROR) == ["failed"]
    assert found(key_ids=["me"]) == ["cancelled", "video"]
    assert found(job_id="failed") == ["failed"]
    assert found(job_id="failed", key_ids=["me"]) == []
    assert found(endpoints=["x"]) == []
    assert found(end=1010.0) == ["cancelled", "video"]
    assert found(start=1010.0) == ["failed"]


def test_a_page_has_the_videos_that_are_still_here(place: Place) -> None:
    job, video = place.made("a", file_lifetime_s=60.0)
    place.made("b")

    def ids() -> set[str]:
        return set(requests(place.database, wanted(), place.clock.now, limit=9).videos)

    found = requests(place.database, wanted(), place.clock.now, limit=9).videos
    assert found[job.id] == video
    assert ids() == {"a", "b"}
    place.clock.now += 61
    assert ids() == {"b"}
