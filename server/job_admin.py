"""The statements of operators about all jobs, whoever sent them; they run beside a server."""

import time
from collections.abc import Callable, Collection

from sqlalchemy import ColumnElement, and_, select

from server import tables
from server.artifact_store import ArtifactStore
from server.database import Database
from server.job_removal import BATCH, can_go, remove_jobs
from server.job_rows import JOB_COLUMNS, job_of
from server.jobs import Job, JobStatus

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
        query = select(_jobs.id).where(and_(which, can_go())).limit(BATCH)
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
