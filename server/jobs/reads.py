"""What callers and runs read of jobs: each method sees the tables as they are at one moment."""

import math
import time
from collections.abc import Callable, Collection, Mapping

from sqlalchemy import and_, func, or_, select

from server.db.database import Database
from server.errors import QueueFull
from server.jobs.limits import NO_LIMITS, KeyLimits, check_key, may_run_another
from server.jobs.pause import paused_since
from server.jobs.statements import (
    RUNNING,
    count_ahead,
    count_queued,
    is_ready,
    is_served,
    jobs,
    read_artifact,
    read_job,
    read_jobs,
    read_lines,
    read_resubmitted,
    read_run_progress,
)
from server.models import Job, JobSnapshot, JobStatus, StoredArtifact


class JobReads:
    """The jobs of one database, to be read. See `JobStore`, which writes, too."""

    def __init__(
        self,
        database: Database,
        *,
        key_limits: KeyLimits = NO_LIMITS,
        endpoints: Collection[str] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._key_limits = key_limits
        self._served = is_served(endpoints)
        self._now = now

    def now(self) -> float:
        """The time in Unix seconds, as it stands in the rows."""
        return self._now()

    def resubmitted(
        self, key_id: str | None, idempotency_key: str | None, body_sha256: str
    ) -> Job | None:
        """The job that was submitted with this idempotency key before."""
        with self._database.read() as db:
            return read_resubmitted(db, key_id, idempotency_key, body_sha256, self._now())

    def check_room(self, key_id: str | None, *, queue_limit: int) -> None:
        """Refuse what `submit` would refuse now, before anything is done for it."""
        with self._database.read() as db:
            if count_queued(db) >= queue_limit:
                raise QueueFull(queue_limit)
            check_key(db, key_id, self._key_limits, self._now())

    def job(self, job_id: str) -> Job:
        """Read one job."""
        with self._database.read() as db:
            return read_job(db, job_id, self._now())

    def standing(self, job_id: str) -> JobSnapshot:
        """Read one job, its place in the queue, its progress, and its lines, oldest first."""
        with self._database.read() as db:
            job = read_job(db, job_id, self._now())
            return JobSnapshot(
                job=job,
                position=count_ahead(db, job, self._served),
                lines=read_lines(db, job_id),
                progress=read_run_progress(db, job),
            )

    def unfinished_runs(self, before: float = math.inf) -> list[Job]:
        """The jobs from `before` whose callers wait on connections, in the order they came in."""
        unfinished = [JobStatus.IN_QUEUE.value, JobStatus.IN_PROGRESS.value]
        waiting = and_(jobs.is_run, jobs.status.in_(unfinished), jobs.submitted_at < before)
        with self._database.read() as db:
            return read_jobs(db, waiting)

    def claimable(self, *, besides: Collection[str], by: Job) -> set[str]:
        """The jobs that wait for a slot and nothing else, but for those named.

        One whose key may run no more is there if `by`, which ends for it, is of the same key.
        """
        may_run = or_(may_run_another(self._key_limits.running), jobs.key_id == by.key_id)
        waiting = and_(is_ready(self._now(), self._served), jobs.id.not_in(besides), may_run)
        with self._database.read() as db:
            return set(db.execute(select(jobs.id).where(waiting)).scalars())

    def count_ready(self) -> int:
        """How many jobs wait for a slot and nothing else: those that would be claimed now."""
        ready = is_ready(self._now(), self._served)
        ready = and_(ready, may_run_another(self._key_limits.running))
        with self._database.read() as db:
            return db.execute(select(func.count()).where(ready)).scalar_one()

    def artifact(self, artifact_id: str) -> StoredArtifact | None:
        """The row of a file, None if there is none, or it was not to be kept for so long."""
        with self._database.read() as db:
            return read_artifact(db, artifact_id, self._now())

    def paused_since(self) -> float | None:
        """When the queue was paused, in Unix seconds; None if it is not."""
        return paused_since(self._database)

    def runs_to_stop(self, attempts: Mapping[str, int]) -> set[str]:
        """The jobs, of these with their attempts, whose runs should stop: their callers asked, or
        the jobs are no longer theirs."""
        go_on = and_(jobs.id.in_(attempts), RUNNING, ~jobs.cancel_requested)
        with self._database.read() as db:
            rows = db.execute(select(jobs.id, jobs.attempt).where(go_on))
            return set(attempts) - {row.id for row in rows if attempts[row.id] == row.attempt}
