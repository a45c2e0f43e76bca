"""What metrics and operators read from the tables about all jobs. Every function blocks."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import func, select

from server.db import tables
from server.db.database import Database
from server.db.rows import JOB_COLUMNS, job_of
from server.models import Job, JobError, JobStatus

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


def queue_size(database: Database, now: float) -> QueueSize:
    query = select(_jobs.status, func.count(), func.min(_jobs.submitted_at))
    unfinished = [JobStatus.IN_QUEUE.value, JobStatus.IN_PROGRESS.value]
    with database.read() as db:
        rows = db.execute(query.where(_jobs.status.in_(unfinished)).group_by(_jobs.status))
        counts = {status: (count, first) for status, count, first in rows}
    waiting, first = counts.get(JobStatus.IN_QUEUE.value, (0, now))
    running, _ = counts.get(JobStatus.IN_PROGRESS.value, (0, 0.0))
    return QueueSize(waiting, running, max(0.0, now - first))


def in_progress(database: Database) -> set[str]:
    """The ids of the jobs that a run has claimed and not ended."""
    query = select(_jobs.id).where(_jobs.status == JobStatus.IN_PROGRESS.value)
    with database.read() as db:
        return set(db.execute(query).scalars())


def ended_after(database: Database, at: float) -> list[Ended]:
    """The jobs that ended after that, in their order: writers take turns, and so do ends."""
    query = select(_jobs.finished_at, _jobs.http_status, _jobs.error, _jobs.result)
    with database.read() as db:
        rows = db.execute(query.where(_jobs.finished_at > at).order_by(_jobs.finished_at)).all()
    return [
        Ended(
            at=row.finished_at,
            error=None if row.error is None else JobError(row.http_status, row.error),
            stage_seconds={} if row.result is None else row.result["stage_seconds"],
        )
        for row in rows
    ]


def latest(database: Database, limit: int, statuses: Collection[JobStatus] = ()) -> list[Job]:
    """The jobs that came last, the latest first; of these statuses, or of all."""
    query = select(*JOB_COLUMNS).order_by(_jobs.seq.desc()).limit(limit)
    if statuses:
        query = query.where(_jobs.status.in_([status.value for status in statuses]))
    with database.read() as db:
        return [job_of(row) for row in db.execute(query)]
