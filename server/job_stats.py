"""What the metrics read from the tables: numbers over all jobs, and no job's content."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import and_, func, select

from server import tables
from server.database import Database
from server.jobs import JobError, JobStatus

_jobs = tables.jobs.c


@dataclass(frozen=True, slots=True)
class QueueSize:
    """How many jobs wait and run, and how long the oldest that waits has done so."""

    waiting: int
    running: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended; `stage_seconds` is empty unless it made its video."""

    at: float
    error: JobError | None
    stage_seconds: Mapping[str, float]


class JobStats:
    """Counts the jobs of one database. Every method blocks."""

    def __init__(self, database: Database, *, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now

    def now(self) -> float:
        """The time by which jobs end."""
        return self._now()

    def queue(self) -> QueueSize:
        query = select(_jobs.status, func.count(), func.min(_jobs.submitted_at))
        unfinished = [JobStatus.IN_QUEUE.value, JobStatus.IN_PROGRESS.value]
        with self._database.read() as db:
            rows = db.execute(query.where(_jobs.status.in_(unfinished)).group_by(_jobs.status))
            counts = {status: (count, first) for status, count, first in rows}
        now = self._now()
        waiting, first = counts.get(JobStatus.IN_QUEUE.value, (0, now))
        running, _ = counts.get(JobStatus.IN_PROGRESS.value, (0, 0.0))
        return QueueSize(waiting, running, max(0.0, now - first))

    def ended_after(self, at: float) -> list[Ended]:
        """The jobs that ended after that, in their order: writers take turns, and so do ends."""
        ended = and_(_jobs.status == JobStatus.COMPLETED.value, _jobs.finished_at > at)
        query = select(_jobs.finished_at, _jobs.http_status, _jobs.error, _jobs.result)
        with self._database.read() as db:
            rows = db.execute(query.where(ended).order_by(_jobs.finished_at)).all()
        return [
            Ended(
                at=row.finished_at,
                error=None if row.error is None else JobError(row.http_status, row.error),
                stage_seconds={} if row.result is None else row.result["stage_seconds"],
            )
            for row in rows
        ]
