"""What the metrics read from the tables: numbers over all jobs, and no job's content."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, select

from server.db import tables
from server.db.database import Database
from server.db.rows import JOB_COLUMNS, job_of
from server.files.store import ArtifactStore
from server.jobs.retention import BATCH, is_removable, remove_jobs
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


_jobs = tables.jobs.c


class JobAdmin:
    """The jobs of one data folder, for the people who run its server. Every method blocks."""

    def __init__(
        self, database: Database, files: ArtifactStore, *, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._files = files
        self._now = now

    def latest(self, limit: int, statuses: Collection[JobStatus] = ()) -> list[Job]:
        """The jobs that came last, the latest first; of these statuses, or of all."""
        query = select(*JOB_COLUMNS).order_by(_jobs.seq.desc()).limit(limit)
        if statuses:
            query = query.where(_jobs.status.in_([status.value for status in statuses]))
        with self._database.read() as db:
            return [job_of(row) for row in db.execute(query)]

    def purge(self, job_ids: Collection[str]) -> list[str]:
        """Remove those of these jobs that can be, with their videos; say which these were."""
        return self._purge(_jobs.id.in_(job_ids))

    def purge_older_than(self, seconds: float) -> list[str]:
        """Remove the jobs that ended before that, with their videos; say which these were."""
        return self._purge(_jobs.finished_at <= self._now() - seconds)

    def _purge(self, which: ColumnElement[bool]) -> list[str]:
        query = select(_jobs.id).where(and_(which, is_removable())).limit(BATCH)
        purged: list[str] = []
        while True:
            with self._database.write() as db:
                job_ids = list(db.execute(query).scalars())
                videos = remove_jobs(db, job_ids)
            for video in videos:
                self._files.remove(video)
            if not job_ids:
                return purged
            purged += job_ids
