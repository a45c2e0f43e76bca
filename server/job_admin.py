"""The statements of operators about all jobs, whoever sent them; they run beside a server."""

import time
from collections.abc import Callable, Collection, Sequence

from sqlalchemy import ColumnElement, and_, delete, exists, select

from server import tables
from server.artifact_store import ArtifactStore
from server.database import Database
from server.job_rows import JOB_COLUMNS, job_of
from server.jobs import Job, JobStatus

_jobs, _artifacts, _webhooks = tables.jobs.c, tables.artifacts.c, tables.webhooks.c


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
        """A job can be removed when it is done, and whoever asked to be told has been.

        The pictures of a job stay: another job may have come with the same ones.
        """
        query = select(_jobs.id).where(and_(which, _can_go()))
        with self._database.write() as db:
            job_ids = list(db.execute(query).scalars())
            of_jobs = _artifacts.job_id.in_(query)
            videos = list(db.execute(select(_artifacts.id).where(of_jobs)).scalars())
            db.execute(delete(tables.artifacts).where(of_jobs))
            db.execute(delete(tables.jobs).where(and_(which, _can_go())))
        self._remove(videos)
        return job_ids

    def _remove(self, videos: Sequence[str]) -> None:
        for video in videos:
            self._files.remove(video)


def _can_go() -> ColumnElement[bool]:
    # A webhook with a time for its next try is still to be sent, and needs the output.
    untold = exists().where(and_(_webhooks.job_id == _jobs.id, _webhooks.not_before.is_not(None)))
    return and_(_jobs.status == JobStatus.COMPLETED.value, ~untold)
