"""What is not to be kept for ever: outputs with a lifetime, and jobs that shall leave no trace.

A job with `sync_mode`, or whose caller wants its input and output not stored, stays for ten minutes
after its output was first fetched whole, or for a day if nobody does. From the moment on at which
its time is over nothing of it is served; rows and files go soon after. Other jobs stay until they
are purged, or for as long as the server is told to keep them.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence

from sqlalchemy import and_, delete, or_, select, update

from server import tables
from server.artifact_store import ArtifactStore
from server.database import Database
from server.job_removal import BATCH, can_go, is_told, remove_jobs
from server.job_rows import JOB_COLUMNS, job_of
from server.jobs import FETCHED_LIFETIME_S, Job
from server.supervise import completed

SWEEP_EVERY_S = 30.0

_jobs, _artifacts = tables.jobs.c, tables.artifacts.c


class Retention:
    """Ends the keeping of one server's jobs and videos. `gone` is told when jobs were removed.

    `keep_s` is how long jobs are kept after they ended, with their videos; None is for ever.
    """

    def __init__(
        self,
        database: Database,
        files: ArtifactStore,
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
        sooner = and_(_jobs.id == job.id, _jobs.expires_at > expires_at, is_told())
        with self._database.write() as db:
            db.execute(update(tables.jobs).where(sooner).values(expires_at=expires_at))

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
        query = select(*JOB_COLUMNS).where(and_(over, can_go())).limit(BATCH)
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
        self._remove(videos)
        return True

    def _sweep_videos(self, now: float) -> bool:
        """Remove some of the videos whose own time is over, or that outlived their job too long."""
        is_left = and_(_artifacts.job_id.is_(None), _artifacts.created_at <= self._oldest(now))
        over = and_(_artifacts.kind == "video", or_(_artifacts.expires_at <= now, is_left))
        query = select(_artifacts.id).where(over).limit(BATCH)
        with self._database.read() as db:
            if db.execute(query.limit(1)).first() is None:
                return False
        with self._database.write() as db:
            removed = delete(tables.artifacts).where(_artifacts.id.in_(query))
            videos = list(db.execute(removed.returning(_artifacts.id)).scalars())
        self._gone()
        self._remove(videos)
        return True

    def _oldest(self, now: float) -> float:
        """When a job must have ended, or a file have come, to be kept any longer."""
        return -math.inf if self._keep_s is None else now - self._keep_s

    def _remove(self, videos: Sequence[str]) -> None:
        for video in videos:
            self._files.remove(video)


def _is_old(job: Job, oldest: float) -> bool:
    return job.finished_at is not None and job.finished_at <= oldest
