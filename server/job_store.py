"""Every SQL statement of the server: jobs, their logs and progress, and the rows of artefacts.

Synchronous: callers on the event loop run it in a thread. Writers take turns, each in one
transaction. `attempt` is the fence: a write from a run names its attempt and does nothing once
another run, or none, has the job.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, insert, or_, select, update

from server import tables
from server.database import Database
from server.errors import QueueFull, UnknownJob
from server.job_rows import (
    ARTIFACT_COLUMNS,
    JOB_COLUMNS,
    job_of,
    row_of_artifact,
    row_of_job,
    row_of_line,
    row_of_webhook,
)
from server.jobs import (
    CANCELLED,
    MAX_WORKER_DEATHS,
    TRANSITIONS,
    CancelAnswer,
    Job,
    JobError,
    JobProgress,
    JobStatus,
    LogLine,
    NewJob,
    StoredArtifact,
)

_IN_ORDER = (tables.jobs.c.priority.desc(), tables.jobs.c.seq)
_QUEUED = tables.jobs.c.status == JobStatus.IN_QUEUE.value


class JobStore:
    """The tables of one data folder. `owner` names this server in what it claims."""

    def __init__(
        self, database: Database, *, owner: str, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._owner = owner
        self._now = now

    def close(self) -> None:
        """Close the database, which other stores may share."""
        self._database.close()

    # What callers do.

    def submit(
        self, new: NewJob, *, queue_limit: int, artifacts: Collection[StoredArtifact] = ()
    ) -> Job:
        """Commit a job, and the rows of the files that came with it.

        Raises:
            QueueFull: `queue_limit` jobs are waiting already.
        """
        with self._database.write() as db:
            if new.error is None and _count_queued(db) >= queue_limit:
                raise QueueFull(queue_limit)
            for artifact in artifacts:
                self._add_artifact(db, artifact, job_id=None)
            db.execute(insert(tables.jobs).values(**row_of_job(new, self._now())))
            if new.error is not None:
                self._announce(db, new.id, new.webhook_url)
            return _read_job(db, new.id)

    def queued(self) -> int:
        """How many jobs wait."""
        with self._database.read() as db:
            return _count_queued(db)

    def job(self, job_id: str) -> Job:
        """Read one job.

        Raises:
            UnknownJob: there is none of that id.
        """
        with self._database.read() as db:
            return _read_job(db, job_id)

    def position(self, job: Job) -> int:
        """How many jobs wait before this one."""
        jobs = tables.jobs.c
        earlier = and_(jobs.priority == job.priority, jobs.seq < job.seq)
        ahead = and_(_QUEUED, or_(jobs.priority > job.priority, earlier))
        with self._database.read() as db:
            return db.execute(select(func.count()).where(ahead)).scalar_one()

    def logs(self, job_id: str) -> list[LogLine]:
        """The lines of every run of the job, oldest first."""
        columns = tables.logs.c
        query = select(columns.at, columns.level, columns.message)
        with self._database.read() as db:
            rows = db.execute(query.where(columns.job_id == job_id).order_by(columns.id))
            return [LogLine(row.at, row.level, row.message) for row in rows]

    def progress(self, job_id: str) -> JobProgress | None:
        """How far the latest run of the job has come."""
        columns = tables.progress.c
        query = select(columns.stage, columns.step, columns.num_steps, columns.seconds_left)
        with self._database.read() as db:
            row = db.execute(query.where(columns.job_id == job_id)).one_or_none()
            return None if row is None else JobProgress(*row)

    def request_cancel(self, job_id: str) -> CancelAnswer:
        """Cancel a job that waits at once; ask the run of a running one to stop.

        Raises:
            UnknownJob: there is none of that id.
        """
        with self._database.write() as db:
            job = _read_job(db, job_id)
            if job.done:
                return CancelAnswer.ALREADY_COMPLETED
            _change(db, tables.jobs.c.id == job_id, cancel_requested=True)
            if job.status is JobStatus.IN_QUEUE:
                self._end(db, job, error=CANCELLED)
            return CancelAnswer.REQUESTED

    # What intake does.

    def awaiting_inputs(self, limit: int, *, besides: Collection[str] = ()) -> list[Job]:
        """The first jobs in the queue whose media are not here, but for those in hand."""
        waiting = and_(_QUEUED, tables.jobs.c.input_refs.is_(None))
        if besides:
            waiting = and_(waiting, tables.jobs.c.id.not_in(besides))
        query = select(*JOB_COLUMNS).where(waiting).order_by(*_IN_ORDER).limit(limit)
        with self._database.read() as db:
            return [job_of(row) for row in db.execute(query)]

    def set_inputs(self, job_id: str, artifacts: Mapping[str, StoredArtifact]) -> None:
        """Make a job claimable: the prepared media, by name, are here."""
        refs = {name: artifact.id for name, artifact in artifacts.items()}
        with self._database.write() as db:
            for artifact in artifacts.values():
                self._add_artifact(db, artifact, job_id=None)
            _change(db, and_(tables.jobs.c.id == job_id, _QUEUED), input_refs=refs)

    def refuse_inputs(self, job_id: str, error: JobError) -> None:
        """End a job that waits: its media cannot be used."""
        with self._database.write() as db:
            job = _read_job(db, job_id)
            if job.status is JobStatus.IN_QUEUE:
                self._end(db, job, error=error)

    def artifact(self, artifact_id: str) -> StoredArtifact | None:
        """The row of a file, None if there is none."""
        with self._database.read() as db:
            query = select(*ARTIFACT_COLUMNS).where(tables.artifacts.c.id == artifact_id)
            row = db.execute(query).one_or_none()
            return None if row is None else StoredArtifact(**row._mapping)

    # What the dispatcher does.

    def recover(self) -> int:
        """Put the jobs of a server that is gone back at their old places; say how many.

        One that was asked to stop is not run again.
        """
        query = select(*JOB_COLUMNS).where(tables.jobs.c.status == JobStatus.IN_PROGRESS.value)
        with self._database.write() as db:
            running = [job_of(row) for row in db.execute(query)]
            for job in running:
                self._give_back(db, job)
            return len(running)

    def claim(self, slot: str) -> Job | None:
        """Take the oldest job of the highest priority whose media are here; None if none is."""
        jobs = tables.jobs.c
        ready = and_(
            _QUEUED,
            jobs.input_refs.is_not(None),
            or_(jobs.not_before.is_(None), jobs.not_before <= self._now()),
        )
        first = select(jobs.seq).where(ready).order_by(*_IN_ORDER).limit(1).scalar_subquery()
        claim = (
            update(tables.jobs)
            .where(jobs.seq == first)
            .values(
                status=JobStatus.IN_PROGRESS.value,
                attempt=jobs.attempt + 1,
                slot=slot,
                claimed_by=self._owner,
                started_at=self._now(),
            )
            .returning(*JOB_COLUMNS)
        )
        with self._database.write() as db:
            row = db.execute(claim).one_or_none()
            return None if row is None else job_of(row)

    def cancel_requested(self, job_id: str, attempt: int) -> bool:
        """Whether this run should stop: its caller asked, or the job is no longer its."""
        query = select(tables.jobs.c.cancel_requested).where(_held(job_id, attempt))
        with self._database.read() as db:
            return db.execute(query).scalar_one_or_none() is not False

    def record(
        self, job_id: str, attempt: int, lines: Sequence[LogLine], progress: JobProgress | None
    ) -> None:
        """Write what a run has to tell, in one transaction."""
        with self._database.write() as db:
            if _read_held(db, job_id, attempt) is None:
                return
            if lines:
                rows = [row_of_line(job_id, attempt, line) for line in lines]
                db.execute(insert(tables.logs), rows)
            if progress is not None:
                self._set_progress(db, job_id, attempt, progress)

    def finish(
        self,
        job_id: str,
        attempt: int,
        *,
        result: Mapping[str, Any] | None = None,
        artifacts: Collection[StoredArtifact] = (),
        error: JobError | None = None,
    ) -> bool:
        """End a job by its run: result, artefacts, and webhook in one transaction.

        A cancel that was committed first wins: its caller has been told so. Returns whether
        the result was published; if not, its files belong to nobody.
        """
        with self._database.write() as db:
            job = _read_held(db, job_id, attempt)
            if job is None:
                return False
            if job.cancel_requested:
                self._end(db, job, error=CANCELLED)
                return False
            for artifact in artifacts:
                self._add_artifact(db, artifact, job_id=job_id)
            self._end(db, job, result=result, error=error)
            return error is None

    def give_back(self, job_id: str, attempt: int, *, keeps_inputs: bool = True) -> None:
        """Put a job back at its old place: its run ended for no fault of the job.

        Without `keeps_inputs` its media are prepared anew.
        """
        with self._database.write() as db:
            job = _read_held(db, job_id, attempt)
            if job is None:
                return
            if not keeps_inputs:
                _change(db, tables.jobs.c.id == job_id, input_refs=None)
            self._give_back(db, job)

    def worker_died(self, job_id: str, attempt: int, error: JobError) -> bool:
        """Count a worker that died on a job, and give the job up with `error` at the second.

        Returns whether the job waits again.
        """
        with self._database.write() as db:
            job = _read_held(db, job_id, attempt)
            if job is None:
                return False
            deaths = job.worker_deaths + 1
            _change(db, tables.jobs.c.id == job_id, worker_deaths=deaths)
            if deaths >= MAX_WORKER_DEATHS and not job.cancel_requested:
                self._end(db, job, error=error)
                return False
            self._give_back(db, job)
            return not job.cancel_requested

    # The parts of a transaction.

    def _end(
        self,
        db: Connection,
        job: Job,
        *,
        result: Mapping[str, Any] | None = None,
        error: JobError | None = None,
    ) -> None:
        _move(
            db,
            job,
            JobStatus.COMPLETED,
            finished_at=self._now(),
            result=result,
            error=None if error is None else error.body,
            http_status=200 if error is None else error.http_status,
        )
        self._announce(db, job.id, job.webhook_url)

    def _announce(self, db: Connection, job_id: str, webhook_url: str | None) -> None:
        """Let a job that has ended tell whoever asked to be told."""
        if webhook_url is not None:
            row = row_of_webhook(job_id, webhook_url, self._now())
            db.execute(insert(tables.webhooks).values(row))

    def _give_back(self, db: Connection, job: Job) -> None:
        if job.cancel_requested:
            self._end(db, job, error=CANCELLED)
            return
        _move(db, job, JobStatus.IN_QUEUE, slot=None, claimed_by=None, started_at=None)

    def _add_artifact(self, db: Connection, artifact: StoredArtifact, job_id: str | None) -> None:
        # A picture that was sent before has the same id and the same bytes.
        known = select(tables.artifacts.c.id).where(tables.artifacts.c.id == artifact.id)
        if db.execute(known).one_or_none() is None:
            row = row_of_artifact(artifact, job_id=job_id, created_at=self._now())
            db.execute(insert(tables.artifacts).values(row))

    def _set_progress(
        self, db: Connection, job_id: str, attempt: int, progress: JobProgress
    ) -> None:
        row = {
            "attempt": attempt,
            "stage": progress.stage,
            "step": progress.step,
            "num_steps": progress.num_steps,
            "seconds_left": progress.seconds_left,
            "updated_at": self._now(),
        }
        of_job = tables.progress.c.job_id == job_id
        if db.execute(update(tables.progress).where(of_job).values(row)).rowcount == 0:
            db.execute(insert(tables.progress).values(job_id=job_id, **row))


def _held(job_id: str, attempt: int) -> ColumnElement[bool]:
    """The job, if this attempt is the one that runs it."""
    jobs = tables.jobs.c
    running = jobs.status == JobStatus.IN_PROGRESS.value
    return and_(jobs.id == job_id, jobs.attempt == attempt, running)


def _read_held(db: Connection, job_id: str, attempt: int) -> Job | None:
    row = db.execute(select(*JOB_COLUMNS).where(_held(job_id, attempt))).one_or_none()
    return None if row is None else job_of(row)


def _read_job(db: Connection, job_id: str) -> Job:
    query = select(*JOB_COLUMNS).where(tables.jobs.c.id == job_id)
    row = db.execute(query).one_or_none()
    if row is None:
        raise UnknownJob
    return job_of(row)


def _count_queued(db: Connection) -> int:
    return db.execute(select(func.count()).select_from(tables.jobs).where(_QUEUED)).scalar_one()


def _move(db: Connection, job: Job, status: JobStatus, **values: Any) -> None:
    assert status in TRANSITIONS[job.status], f"a job went from {job.status} to {status}"
    _change(db, tables.jobs.c.id == job.id, status=status.value, **values)


def _change(db: Connection, which: ColumnElement[bool], **values: Any) -> None:
    db.execute(update(tables.jobs).where(which).values(**values))
