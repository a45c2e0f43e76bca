"""Buckets of jobs that ended, a page at a time, and what is computed of them."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_fixtures import Place

from server.api.platform.analytics import percentile
from server.api.platform.series import Bucket, Series
from server.api.platform.windows import Timeframe, Window

MINUTE = 60.0


@pytest.fixture
def series(place: Place) -> Series:
    """Two jobs of the first minute, none of the second, one of each of three more."""
    for number, minute in enumerate((0, 0, 2, 3, 4)):
        place.clock.now = 6000.0 + minute * MINUTE + number
        place.submit(str(number))
        place.store.request_cancel(str(number))
    start, end = (datetime.fromtimestamp(6000.0 + 60 * minute, UTC) for minute in (0, 5))
    return Series(database=place.database, window=Window(start, end), timeframe=Timeframe.MINUTE)


def sizes(buckets: list[Bucket[int]]) -> list[tuple[float, int]]:
    return [(each.at.timestamp(), each.results[0]) for each in buckets]


def test_buckets_come_in_pages_and_empty_ones_not_at_all(series: Series) -> None:
    first, since = series.buckets(lambda jobs: [len(list(jobs))], limit=2, since=None)
    rest, none = series.buckets(lambda jobs: [len(list(jobs))], limit=2, since=since)
    assert sizes(first) == [(6000.0, 2), (6120.0, 1)]
    assert sizes(rest) == [(6180.0, 1), (6240.0, 1)]
    assert (since, none) == (6180.0, None)
    assert series.summary(lambda jobs: [len(list(jobs))]) == [5]


def test_a_cursor_does_not_lead_out_of_the_window(series: Series) -> None:
    before, _ = series.buckets(lambda jobs: [len(list(jobs))], limit=9, since=-1e12)
    assert sum(size for _, size in sizes(before)) == 5
    assert series.buckets(lambda jobs: [len(list(jobs))], limit=9, since=1e12) == ([], None)


def test_percentiles_lie_between_neighbours() -> None:
    assert percentile([3.0], 99) == 3.0
    assert percentile([4.0, 2.0], 50) == 3.0
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0], 25) == 2.0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([25, 50, 99]))
def test_they_are_none_of_what_was_not_measured(values: list[float], percent: float) -> None:
    assert min(values) <= percentile(values, percent) <= max(values)
