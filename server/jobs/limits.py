"""What one key may have of a server at a time, so that no caller takes all of it.

Everything is counted from the rows of jobs, in the transaction that writes: so the limits hold
however many requests come at once, and a restart does not forget the last minute. A key may have
limits of its own, in its row, which take the place of those of every key.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, case, func, literal, or_, select

from server.config.settings import Settings
from server.db import tables
from server.errors import KeyQueueFull, TooManySubmits
from server.models import JobStatus
from server.tasks import share_of

MINUTE_S = 60.0

_jobs, _keys = tables.jobs.c, tables.keys.c


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """The limits of each key that has none of its own; None is no limit."""

    queued: int | None = None
    running: int | None = None
    submits_per_minute: int | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "KeyLimits":
        """The limits that the settings name."""
        return cls(
            queued=settings.key_queue_limit,
            running=settings.key_running_limit,
            submits_per_minute=settings.key_submits_per_minute,
        )


NO_LIMITS = KeyLimits()


def check_key(
    db: Connection, key_id: str | None, limits: KeyLimits, now: float, *, waits: bool = True
) -> None:
    """Refuse another job of this key, if it has as many as it may have.

    A job that does not wait, because it has failed already, counts for the minute alone.

    Raises:
        KeyQueueFull: as many jobs of the key wait as may wait.
        TooManySubmits: as many came within the last minute as may come.
    """
    if key_id is None:
        return
    limits = _limits_of(db, key_id, limits)
    if waits and limits.queued is not None and _count_queued(db, key_id) >= limits.queued:
        raise KeyQueueFull(key_id, limits.queued)
    if limits.submits_per_minute is not None:
        _check_minute(db, key_id, limits.submits_per_minute, now)


def limits_runs(db: Connection, default: int | None) -> bool:
    """Whether there is a key of which only so many jobs may run."""
    own = select(_keys.id).where(_keys.running_limit.is_not(None)).limit(1)
    return default is not None or db.execute(own).first() is not None


def may_run_another(default: int | None) -> ColumnElement[bool]:
    """Whether fewer jobs of the key of a row of `jobs` run than may; a row without key may run.

    `default` is for keys without a limit of their own.
    """
    others = tables.jobs.alias()
    of_key = others.c.key_id == _jobs.key_id
    running = select(func.count()).where(others.c.status == JobStatus.IN_PROGRESS.value, of_key)
    own = select(_keys.running_limit).where(_keys.id == _jobs.key_id).correlate(tables.jobs)
    limit = func.coalesce(own.scalar_subquery(), default)
    return or_(limit.is_(None), running.correlate(tables.jobs).scalar_subquery() < limit)


def _limits_of(db: Connection, key_id: str, defaults: KeyLimits) -> KeyLimits:
    """The limits of a key, its own or else the defaults. A key of the settings has no row."""
    query = select(_keys.queue_limit, _keys.running_limit, _keys.submits_per_minute)
    own = db.execute(query.where(_keys.id == key_id)).one_or_none()
    if own is None:
        return defaults
    return KeyLimits(
        queued=defaults.queued if own.queue_limit is None else own.queue_limit,
        running=defaults.running if own.running_limit is None else own.running_limit,
        submits_per_minute=defaults.submits_per_minute
        if own.submits_per_minute is None
        else own.submits_per_minute,
    )


def has_less_than_share(in_hand: Mapping[str | None, int], places: int) -> ColumnElement[bool]:
    """Whether the key of a row of `jobs` has fewer of so many places in hand than one key may.

    A row without a key may have every place.
    """
    full = [key for key, count in in_hand.items() if key is not None and count >= share_of(places)]
    return func.coalesce(_jobs.key_id, "").not_in(full)


def fewest_first(in_hand: Mapping[str | None, int]) -> ColumnElement[int]:
    """What to order rows of `jobs` by, so that keys take turns: how many their key has in hand."""
    counts = {key or "": count for key, count in in_hand.items()}
    if not counts:
        return literal(0)
    return case(counts, value=func.coalesce(_jobs.key_id, ""), else_=0)


def _count_queued(db: Connection, key_id: str) -> int:
    of_key = _jobs.key_id == key_id
    queued = select(func.count()).where(_jobs.status == JobStatus.IN_QUEUE.value, of_key)
    return db.execute(queued).scalar_one()


def _check_minute(db: Connection, key_id: str, limit: int, now: float) -> None:
    came = select(_jobs.submitted_at).where(
        _jobs.key_id == key_id,
        _jobs.submitted_at > now - MINUTE_S,
        # A clock that was put back leaves rows of times to come: they must not count for hours.
        _jobs.submitted_at <= now,
    )
    latest = came.order_by(_jobs.submitted_at.desc()).limit(limit)
    times = list(db.execute(latest).scalars())
    if len(times) == limit:
        # Rounded up: a caller that comes back then is let in.
        raise TooManySubmits(key_id, limit, math.ceil(times[-1] + MINUTE_S - now))
