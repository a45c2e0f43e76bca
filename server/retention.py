"""What is not to be kept for ever: outputs with a lifetime, and jobs that shall leave no trace.

A job with `sync_mode`, or whose caller wants its input and output not stored, stays for ten minutes
after its output was first fetched whole, or for a day if nobody does. From the moment on at which
its time is over nothing of it is served; rows and files go soon after, the rows first, because a
file that no row knows is removed at the next start.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from sqlalchemy import Connection, and_, delete, exists, select, update

from server import tables
from server.artifact_store import ArtifactStore
from server.database import Database
from server.job_rows import JOB_COLUMNS, job_of
from server.jobs import FETCHED_LIFETIME_S, Job
from server.supervise import completed

SWEEP_EVERY_S = 30.0

_jobs, _artifacts = tables.jobs.c, tables.artifacts.c


class Retention:
    """Ends the keeping of one server's jobs and videos. `gone` is told when jobs were removed."""

    def __init__(
        self,
        database: Database,
        files: ArtifactStore,
        *,
        gone: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._files = files
        self._gone = gone
        self._now = now

    async def run(self) -> None:
        """Remove what has had its time, until cancelled."""
        while True:
            await completed("removing what has expired", asyncio.to_thread(self.sweep))
            await asyncio.sleep(SWEEP_EVERY_S)

    def fetched(self, job: Job) -> None:
        """The job's caller has its whole output: from now on the time of one not kept is short.

        A webhook that is still to be sent needs the output, too.
        """
        if job.is_kept:
            return
        expires_at = self._now() + FETCHED_LIFETIME_S
        webhooks = tables.webhooks.c
        pending = exists().where(
            and_(webhooks.job_id == _jobs.id, webhooks.delivered_at.is_(None)),
            webhooks.given_up_at.is_(None),
        )
        sooner = and_(_jobs.id == job.id, _jobs.expires_at > expires_at, ~pending)
        with self._database.write() as db:
            db.execute(update(tables.jobs).where(sooner).values(expires_at=expires_at))

    def sweep(self) -> None:
        """Remove the jobs and videos whose time is over."""
        now = self._now()
        with self._database.read() as db:
            over = select(*JOB_COLUMNS).where(_jobs.expires_at <= now)
            jobs = [job_of(row) for row in db.execute(over)]
            expired = and_(_artifacts.kind == "video", _artifacts.expires_at <= now)
            videos = list(db.execute(select(_artifacts.id).where(expired)).scalars())
        if not jobs and not videos:
            return
        with self._database.write() as db:
            for job in jobs:
                videos += _forget(db, job)
            db.execute(delete(tables.artifacts).where(_artifacts.id.in_(videos)))
        self._gone()
        self._remove(videos)

    def _remove(self, videos: Sequence[str]) -> None:
        for video in videos:
            self._files.remove(video)


def _forget(db: Connection, job: Job) -> list[str]:
    """Remove a job's row, and let its files go or stay; those that are to go with it."""
    of_job = _artifacts.job_id == job.id
    videos = list(db.execute(select(_artifacts.id).where(of_job)).scalars())
    db.execute(update(tables.artifacts).where(of_job).values(job_id=None))
    db.execute(delete(tables.jobs).where(_jobs.id == job.id))
    # Without `sync_mode` the output was a URL, and that is good for as long as its file.
    return videos if job.sync_mode else []
