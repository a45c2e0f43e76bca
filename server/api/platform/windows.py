"""The stretch of time that a call is about, and the buckets that it is cut into."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from zoneinfo import ZoneInfo

from server.errors import BadRequest

DAY = timedelta(days=1)
LONGEST = 90 * DAY
_FIRST = datetime(2000, 1, 1, tzinfo=UTC)
_LAST = datetime(9000, 1, 1, tzinfo=UTC)


class Timeframe(StrEnum):
    """The length of a bucket. Weeks begin on Monday."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` until before `end`."""

    start: datetime
    end: datetime


def zone_of(name: str) -> tzinfo:
    """The time zone of that name.

    Raises:
        BadRequest: this machine knows none.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise BadRequest(f"timezone: this machine knows no time zone {name[:50]!r}.") from None


def window(
    start: datetime | None,
    end: datetime | None,
    *,
    now: float,
    zone: tzinfo = UTC,
    by_default: timedelta = DAY,
) -> Window:
    """The window of a call, the last day if it does not say. Times without an offset are in `zone`.

    Raises:
        BadRequest: it ends before it begins, or is longer than 90 days.
    """
    now_at = datetime.fromtimestamp(now, UTC)
    end = _read(end, "end", zone) or now_at
    start = _read(start, "start", zone) or min(now_at, end) - by_default
    if start >= end:
        raise BadRequest("start, end: the window ends before it begins.")
    if end - start > LONGEST:
        raise BadRequest("start, end: the window is longer than 90 days.")
    return Window(start.astimezone(zone), end.astimezone(zone))


def timeframe_of(found: Window) -> Timeframe:
    """The length of bucket that suits a window, as fal chooses it."""
    length = found.end - found.start
    if length < timedelta(hours=2):
        return Timeframe.MINUTE
    if length < 2 * DAY:
        return Timeframe.HOUR
    return Timeframe.DAY if length < 64 * DAY else Timeframe.WEEK


def aligned(found: Window, timeframe: Timeframe) -> Window:
    """The window that begins and ends with whole buckets."""
    start, end = bucket_of(found.start, timeframe), bucket_of(found.end, timeframe)
    return Window(start, end if end == found.end else _after(end, timeframe))


def bucket_of(at: datetime, timeframe: Timeframe) -> datetime:
    """When the bucket of a time begins, by the clocks of the time's zone."""
    minute = at.replace(second=0, microsecond=0)
    if timeframe is Timeframe.MINUTE:
        return minute
    hour = minute.replace(minute=0)
    if timeframe is Timeframe.HOUR:
        return hour
    day = hour.replace(hour=0, fold=0)
    if timeframe is Timeframe.WEEK:
        return day - at.weekday() * DAY
    return day.replace(day=1) if timeframe is Timeframe.MONTH else day


def _after(bucket: datetime, timeframe: Timeframe) -> datetime:
    """When the next bucket begins."""
    if timeframe is Timeframe.MONTH:
        return (bucket.replace(day=1) + 32 * DAY).replace(day=1)
    if timeframe in (Timeframe.DAY, Timeframe.WEEK):
        # By the clock: a day may have 23 hours.
        return bucket + (DAY if timeframe is Timeframe.DAY else 7 * DAY)
    length = timedelta(minutes=1) if timeframe is Timeframe.MINUTE else timedelta(hours=1)
    return (bucket.astimezone(UTC) + length).astimezone(bucket.tzinfo)


def _read(given: datetime | None, name: str, zone: tzinfo) -> datetime | None:
    """A time that was given, in UTC, where all days are as long as each other."""
    if given is None:
        return None
    at = given if given.tzinfo is not None else given.replace(tzinfo=zone)
    if not _FIRST <= at <= _LAST:
        raise BadRequest(f"{name}: this server counts from the year 2000 to 9000.")
    return at.astimezone(UTC)
