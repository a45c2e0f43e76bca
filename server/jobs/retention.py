"""What is not to be kept for ever: outputs with a lifetime, and jobs that shall leave no trace.

A job with `sync_mode`, or whose caller wants its input and output not stored, stays for ten minutes
after its output was first fetched whole, or for a day if nobody does. From the moment on at which
its time is over nothing of it is served; rows and files go soon after. Other jobs stay until they
are purged, or for as long as the server is told to keep them.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, or_, select, update

from server.db import tables
from server.db.database import Database
from server.db.rows import JOB_COLUMNS, job_of
from server.errors import BadRequest, Shortage
from server.files.removal import OVER, end_files, remove_files
from server.files.store import FileStore
from server.jobs.statements import change, read_job
from server.models import FETCHED_LIFETIME_S, Job

BATCH = 500
"""Jobs removed in one transaction, which others wait for."""

OF_VIDEOS = ("video", "thumbnail")
"""The kinds of files that a job makes."""

_jobs, _artifacts, _webhooks = tables.jobs.c, tables.artifacts.c, tables.webhooks.c


@dataclass(frozen=True, slots=True)
class DeletedFile:
    """A file that was to be deleted; `problem` is why it is still there."""

    id: str
    name: str
    problem: str | None = None


class Retention:
    """Ends the keeping of one server's jobs and videos. `gone` is told when jobs were removed.

    `keep_s` is how long jobs are kept after they ended, with their videos; None is for ever.
    """

    def __init__(
        self,
        database: Database,
        files: FileStore,
        *,
        gone: Callable[[], None],
        keep_s: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._files = files
        self._gone = gone
        self._keep_s = keep_s
        self._now = now

    def fetched(self, job: Job) -> None:
        """The job's caller has its whole output: from now on the time of one not kept is short.

        A webhook that is still to be sent needs the output, too.
        """
        if job.is_kept:
            return
        expires_at = self._now() + FETCHED_LIFETIME_S
        sooner = and_(_jobs.id == job.id, _jobs.expires_at > expires_at, webhook_is_done())
        with self._database.write() as db:
            db.execute(update(tables.jobs).where(sooner).values(expires_at=expires_at))

    def delete(self, job_id: str) -> None:
        """Let the time of a job and of its files be over, and remove it.

        If it has not ended, or its webhook is due, the row is removed by a later sweep.
        """
        with self._database.write() as db:
            db.execute(update(tables.jobs).where(_jobs.id == job_id).values(expires_at=OVER))
            end_files(db, select(_artifacts.id).where(_artifacts.job_id == job_id))
        self._gone()
        purge(self._database, self._files, Purge(job_ids=[job_id]))

    def delete_payloads(self, job_id: str) -> tuple[Job, list[DeletedFile]]:
        """Delete what a job was given and what it made, but for files that others may use.

        The row of the job stays, with its times. Done twice, it says the same.

        Raises:
            UnknownJob: there is none of that id.
            BadRequest: it is not done, or its webhook is still to be sent.
        """
        with self._database.write() as db:
            job = read_job(db, job_id, self._now())
            outputs = _outputs(db, job)
            due = select(_webhooks.id).where(
                _webhooks.job_id == job_id, _webhooks.not_before.is_not(None)
            )
            if not job.done:
                raise BadRequest("The request is still in progress: cancel it first.")
            if db.execute(due).first() is not None:
                raise BadRequest("The webhook of the request is still to be sent.")
            change(db, _jobs.id == job_id, **_without_payloads(job, outputs))
            # What was said before its first run is about its input.
            notes = and_(tables.logs.c.job_id == job_id, tables.logs.c.attempt == 0)
            db.execute(delete(tables.logs).where(notes))
            end_files(db, select(_artifacts.id).where(_artifacts.id.in_(outputs)))
        self._gone()
        return job, [self._deleted(file_id, name) for file_id, name in outputs.items()]

    def _deleted(self, file_id: str, name: str) -> DeletedFile:
        try:
            remove_files(self._database, self._files, [file_id])
        except OSError as error:
            return DeletedFile(file_id, name, error.strerror)
        except Shortage as error:
            return DeletedFile(file_id, name, str(error))
        return DeletedFile(file_id, name)

    def sweep(self) -> None:
        """Remove the jobs and videos whose time is over."""
        now = self._now()
        while self._sweep_jobs(now):
            pass
        while self._sweep_videos(now):
            pass

    def _sweep_jobs(self, now: float) -> bool:
        """Remove some of the jobs whose time is over; whether there were any."""
        oldest = self._oldest(now)
        over = or_(_jobs.expires_at <= now, _jobs.finished_at <= oldest)
        query = select(*JOB_COLUMNS).where(and_(over, is_removable())).limit(BATCH)
        # There is seldom one, and looking holds up no writer.
        with self._database.read() as db:
            if db.execute(query.limit(1)).first() is None:
                return False
        with self._database.write() as db:
            jobs = [job_of(row) for row in db.execute(query)]
            # Without `sync_mode` the output was a URL, and that is good as long as its file.
            leaving = {job.id for job in jobs if not job.sync_mode and not _is_old(job, oldest)}
            videos = remove_jobs(db, [job.id for job in jobs if job.id not in leaving])
            remove_jobs(db, leaving, with_videos=False)
        self._gone()
        remove_files(self._database, self._files, videos)
        return True

    def _sweep_videos(self, now: float) -> bool:
        """Remove some of the videos whose own time is over, or that outlived their job too long."""
        is_left = and_(_artifacts.job_id.is_(None), _artifacts.created_at <= self._oldest(now))
        over = and_(_artifacts.kind.in_(OF_VIDEOS), or_(_artifacts.expires_at <= now, is_left))
        query = select(_artifacts.id).where(over).limit(BATCH)
        with self._database.read() as db:
            if db.execute(query.limit(1)).first() is None:
                return False
        with self._database.write() as db:
            videos = end_files(db, query)
        self._gone()
        remove_files(self._database, self._files, videos)
        return True

    def _oldest(self, now: float) -> float:
        """When a job must have ended, or a file have come, to be kept any longer."""
        return -math.inf if self._keep_s is None else now - self._keep_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Purge:
    """Which jobs to remove: all that are true of, but for those that cannot be removed yet.

    `job_ids` are their ids, `ended_before` is a time by which they ended, `key_id` their key's.
    """

    job_ids: Collection[str] | None = None
    ended_before: float | None = None
    key_id: str | None = None

    def condition(self) -> ColumnElement[bool]:
        """Which rows of `jobs` they are."""
        which = is_removable()
        if self.job_ids is not None:
            which = and_(which, _jobs.id.in_(self.job_ids))
        if self.ended_before is not None:
            which = and_(which, _jobs.finished_at <= self.ended_before)
        if self.key_id is not None:
            which = and_(which, _jobs.key_id == self.key_id)
        return which


def to_purge(database: Database, which: Purge) -> list[Job]:
    """The jobs that `purge` would remove now, the latest first."""
    query = select(*JOB_COLUMNS).where(which.condition()).order_by(_jobs.seq.desc())
    with database.read() as db:
        return [job_of(row) for row in db.execute(query)]


def purge(database: Database, files: FileStore, which: Purge) -> list[str]:
    """Remove jobs with their videos; return the ids of the jobs."""
    query = select(_jobs.id).where(which.condition()).limit(BATCH)
    purged: list[str] = []
    while True:
        with database.write() as db:
            job_ids = list(db.execute(query).scalars())
            videos = remove_jobs(db, job_ids)
        remove_files(database, files, videos)
        if not job_ids:
            return purged
        purged += job_ids


def _outputs(db: Connection, job: Job) -> dict[str, str]:
    """The names of the files that a job made, by their ids; those that were deleted, too."""
    query = select(_artifacts.id, _artifacts.name).where(_artifacts.job_id == job.id)
    deleted = {file["artifact"]: file["name"] for file in _files(job).values() if "name" in file}
    return deleted | {row.id: row.name for row in db.execute(query)}


def _files(job: Job) -> dict[str, Mapping[str, str]]:
    """What the result says of each file."""
    parts = (job.result or {}).items()
    return {kind: part for kind, part in parts if isinstance(part, Mapping) and "artifact" in part}


def _without_payloads(job: Job, outputs: Mapping[str, str]) -> dict[str, Any]:
    """The columns of a job whose input and output are deleted.

    The names of its files stay, to be told again, and what was measured.
    """
    values: dict[str, Any] = {"input": {"sync_mode": job.sync_mode}, "store_io": False}
    if job.result is not None:
        named = {
            kind: {**file, "name": outputs[file["artifact"]]}
            for kind, file in _files(job).items()
            if file["artifact"] in outputs
        }
        values["result"] = {
            **_files(job),
            **named,
            "stage_seconds": job.result.get("stage_seconds", {}),
        }
    if job.error is not None and isinstance(job.error.body["detail"], list):
        items = [
            {name: value for name, value in item.items() if name not in ("input", "ctx")}
            for item in job.error.body["detail"]
        ]
        values["error"] = {**job.error.body, "detail": items}
    return values


def _is_old(job: Job, oldest: float) -> bool:
    return job.finished_at is not None and job.finished_at <= oldest


def webhook_is_done() -> ColumnElement[bool]:
    """Nobody is still to be told of a job: a webhook with a time for its next try is not sent."""
    return ~exists().where(and_(_webhooks.job_id == _jobs.id, _webhooks.not_before.is_not(None)))


def is_removable() -> ColumnElement[bool]:
    """A job can be removed when it is done and its webhook, if any, is no longer due."""
    # Not by its status: SQLite would look at every job that is done.
    return and_(_jobs.finished_at.is_not(None), webhook_is_done())


def remove_jobs(db: Connection, job_ids: Collection[str], *, with_videos: bool = True) -> list[str]:
    """Remove the rows of at most `BATCH` jobs; the ids of their videos.

    Their videos belong to no job from then on, but to its key, and their time is over. Without
    `with_videos` it is not.
    """
    # An earlier release wrote the owner to the job alone.
    of_job = select(_jobs.key_id).where(_jobs.id == _artifacts.job_id).scalar_subquery()
    left = update(tables.artifacts).where(_artifacts.job_id.in_(job_ids))
    left = left.values(job_id=None, key_id=func.coalesce(_artifacts.key_id, of_job))
    if with_videos:
        left = left.values(expires_at=OVER)
    videos = list(db.execute(left.returning(_artifacts.id)).scalars())
    db.execute(delete(tables.jobs).where(_jobs.id.in_(job_ids)))
    return videos
