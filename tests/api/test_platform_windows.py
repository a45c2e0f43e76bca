"""Windows of time, and the buckets that they are cut into."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.platform.windows import (
    DAY,
    Timeframe,
    Window,
    aligned,
    bucket_of,
    timeframe_of,
    window,
)

NOW = datetime(2026, 3, 20, 15, 30, 10, tzinfo=UTC)
NEW_YORK = ZoneInfo("America/New_York")


def at(text: str, zone: ZoneInfo = NEW_YORK) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


def test_the_last_day_is_meant_if_nothing_is_said() -> None:
    assert window(None, None, now=NOW.timestamp()) == Window(NOW - DAY, NOW)


def test_a_day_before_the_end_if_that_is_said() -> None:
    end = NOW - 10 * DAY
    assert window(None, end, now=NOW.timestamp()) == Window(end - DAY, end)


def test_a_time_without_offset_is_of_the_zone() -> None:
    naive = datetime.fromisoformat("2026-03-19")
    found = window(naive, None, now=NOW.timestamp(), zone=NEW_YORK)
    assert found.start.astimezone(UTC) == datetime(2026, 3, 19, 4, tzinfo=UTC)
    assert found.start.tzinfo is NEW_YORK


@pytest.mark.parametrize(
    ("length", "timeframe"),
    [
        (timedelta(hours=1, minutes=59), Timeframe.MINUTE),
        (timedelta(hours=2), Timeframe.HOUR),
        (timedelta(hours=47), Timeframe.HOUR),
        (2 * DAY, Timeframe.DAY),
        (63 * DAY, Timeframe.DAY),
        (64 * DAY, Timeframe.WEEK),
    ],
)
def test_buckets_are_as_long_as_suits_the_window(length: timedelta, timeframe: Timeframe) -> None:
    assert timeframe_of(Window(NOW - length, NOW)) is timeframe


@pytest.mark.parametrize(
    ("timeframe", "start", "end"),
    [
        (Timeframe.MINUTE, "2026-03-20T15:29", "2026-03-20T15:31"),
        (Timeframe.HOUR, "2026-03-20T15:00", "2026-03-20T16:00"),
        (Timeframe.DAY, "2026-03-20T00:00", "2026-03-21T00:00"),
        (Timeframe.WEEK, "2026-03-16T00:00", "2026-03-23T00:00"),
        (Timeframe.MONTH, "2026-03-01T00:00", "2026-04-01T00:00"),
    ],
)
def test_a_window_is_widened_to_whole_buckets(timeframe: Timeframe, start: str, end: str) -> None:
    found = Window(at("2026-03-20T15:29:59"), at("2026-03-20T15:30:10"))
    expected = Window(at(start), at(end))
    assert aligned(found, timeframe) == expected
    assert aligned(expected, timeframe) == expected


def test_a_day_on_which_clocks_are_set_is_one_bucket() -> None:
    """New York's 8 March 2026 has 23 hours."""
    found = aligned(Window(at("2026-03-08T01:30"), at("2026-03-08T03:30")), Timeframe.DAY)
    assert (found.start, found.end) == (at("2026-03-08T00:00"), at("2026-03-09T00:00"))
    assert found.end.timestamp() - found.start.timestamp() == 23 * 3600
    hours = aligned(Window(at("2026-03-08T01:30"), at("2026-03-08T01:59")), Timeframe.HOUR)
    assert hours.end.isoformat() == "2026-03-08T03:00:00-04:00"


@given(
    st.integers(946_684_800, 4_102_444_800),
    st.sampled_from(Timeframe),
    st.sampled_from(["UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]),
)
def test_every_time_is_within_its_bucket(seconds: int, timeframe: Timeframe, zone: str) -> None:
    moment = datetime.fromtimestamp(seconds, ZoneInfo(zone))
    bucket = bucket_of(moment, timeframe)
    assert bucket.timestamp() <= seconds
    found = aligned(Window(moment, moment), timeframe)
    assert found.start == bucket
    assert found.end.timestamp() >= seconds
