"""What callers, intake and the dispatcher do to jobs: each method is one transaction.

Synchronous: callers on the event loop run it in a thread. Writers take turns, each in one
transaction. `attempt` is the fence: a write from a run names its attempt and does nothing once
another run, or none, has the job.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, insert, select, true

from server.db import tables
from server.db.database import Database
from server.db.leases import FREE, is_free, lease_of
from server.db.rows import JOB_COLUMNS, job_of, row_of_job
from server.errors import QueueFull
from server.files.store import MoveIntoPlace
from server.jobs.limits import NO_LIMITS, KeyLimits, check_key, limits_runs
from server.jobs.reads import JobReads
from server.jobs.statements import (
    QUEUED,
    RUNNING,
    add_artifacts,
    add_lines,
    are_kept,
    awaits_inputs,
    change,
    claim_of,
    count_queued,
    end,
    end_all,
    free_expired_key,
    intake_of,
    is_served,
    jobs,
    lines_of_waiting,
    lock_running,
    note_end,
    put_back,
    read_held,
    read_job,
    read_jobs,
    read_resubmitted,
    set_progress,
)
from server.models import (
    CANCELLED,
    MAX_WORKER_DEATHS,
    TOO_LATE,
    CancelAnswer,
    Job,
    JobError,
    JobStatus,
    LogLine,
    NewJob,
    RunUpdate,
    StoredArtifact,
)

Written = Callable[[str | None], None]
"""Told after each commit: the job whose log alone it changed, None if it changed more."""


def _nothing_to_place() -> None:
    """The files are in place."""


class JobStore(JobReads):
    """The jobs of one database. `owner` names this server in what it claims.

    `key_limits` hold for each key; `queue_limit`, for all jobs together, comes with each submit.
    Jobs of other endpoints than `endpoints` are not claimed; None is all.
    """

    def __init__(
        self,
        database: Database,
        *,
        owner: str,
        key_limits: KeyLimits = NO_LIMITS,
        endpoints: Collection[str] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(database, key_limits=key_limits, endpoints=endpoints, now=now)
        self.owner = owner
        self._listeners: list[Written] = []

    def on_write(self, listener: Written) -> None:
        """Have every commit told from now on, in the thread that made it."""
        self._listeners.append(listener)

    # What callers do.

    def submit(
        self,
        new: NewJob,
        *,
        queue_limit: int,
        artifacts: Collection[StoredArtifact] = (),
        place: MoveIntoPlace = _nothing_to_place,
        notes: Collection[str] = (),
    ) -> Job:
        """Commit a job, and the rows of the files that came with it, which `place` puts there.

        A job that has the idempotency key already is given in its place. `notes` are the first
        lines of the job's log.

        Raises:
            IdempotencyMismatch: that job came of another request.
            QueueFull: `queue_limit` jobs are waiting already.
            KeyQueueFull, TooManySubmits: the key has all that it may have.
        """
        with self._write() as db:
            # Limits hold, and jobs become visible in the order of their places.
            self._database.take_turn(db, "submits")
            now = self._now()
            known = read_resubmitted(db, new.key_id, new.idempotency_key, new.body_sha256, now)
            if known is not None:
                return known
            if new.error is None and count_queued(db) >= queue_limit:
                raise QueueFull(queue_limit)
            check_key(db, new.key_id, self._key_limits, now, waits=new.error is None)
            free_expired_key(db, new.key_id, new.idempotency_key, now)
            self._add_images(db, artifacts, place)
            db.execute(insert(tables.jobs).values(**row_of_job(new, now)))
            add_lines(db, RunUpdate(new.id, 0, [LogLine(now, "INFO", note) for note in notes]))
            job = read_job(db, new.id, now)
            if job.done:
                note_end(db, job, now, error=job.error)
            return job

    def request_cancel(self, job_id: str) -> CancelAnswer:
        """Cancel a job that waits at once; ask the run of a running one to stop."""
        with self._write() as db:
            job = read_job(db, job_id, self._now(), to_change=True)
            if job.done:
                return CancelAnswer.ALREADY_COMPLETED
            change(db, jobs.id == job_id, cancel_requested=True)
            if job.status is JobStatus.IN_QUEUE:
                end(db, job, self._now(), error=CANCELLED)
            return CancelAnswer.REQUESTED

    # What intake does.

    def awaiting_inputs(self, places: int, in_hand: Collection[Job] = ()) -> Job | None:
        """Take the next job in the queue whose media are not here, None if there is none.

        Of the `places` in which media are prepared `in_hand` have some. Keys take turns, and none
        has all the places: the first job counts of the key that has the fewest.
        """
        first = awaits_inputs(self.owner, places, in_hand)
        # There is seldom one, and looking holds up no writer.
        with self._database.read() as db:
            if db.execute(first).first() is None:
                return None
        with self._database.write() as db:
            taken = intake_of(self.owner, first).returning(*JOB_COLUMNS)
            row = db.execute(taken).one_or_none()
            return None if row is None else job_of(row)

    def set_inputs(
        self,
        job_id: str,
        artifacts: Mapping[str, StoredArtifact],
        *,
        lines: Sequence[LogLine] = (),
        place: MoveIntoPlace = _nothing_to_place,
    ) -> None:
        """Make a job claimable: the prepared media, by name, are here once `place` returns.

        `lines` are added to its log.
        """
        refs = {name: artifact.id for name, artifact in artifacts.items()}
        with self._write() as db:
            self._add_images(db, artifacts.values(), place)
            waits = and_(jobs.id == job_id, QUEUED)
            attempt = db.execute(select(jobs.attempt).where(waits)).scalar_one_or_none()
            if attempt is not None:
                add_lines(db, RunUpdate(job_id, attempt, lines))
                change(db, waits, input_refs=refs, **FREE)

    def refuse_inputs(self, job_id: str, error: JobError) -> None:
        """End a job that waits: its media cannot be used."""
        with self._write() as db:
            job = read_job(db, job_id, self._now(), to_change=True)
            if job.status is JobStatus.IN_QUEUE and job.input_refs is None:
                end(db, job, self._now(), error=error)

    # What the dispatcher does.

    def recover(self) -> int:
        """Put the jobs of a server that is gone back at their old places; say how many.

        One that was asked to stop is not run again. To be called by the only server.
        """
        with self._write() as db:
            count = self._put_all_back(db, RUNNING)
            change(db, and_(QUEUED, jobs.not_before.is_not(None)), not_before=None)
            change(db, and_(QUEUED, jobs.claimed_by.is_not(None)), **FREE)
            return count

    def take_over(self) -> int:
        """Put the jobs back whose owner has let its lease lapse; say how many."""
        lapsed = and_(RUNNING, is_free(tables.jobs))
        with self._database.read() as db:
            if db.execute(select(jobs.seq).where(lapsed).limit(1)).first() is None:
                return 0
        with self._write() as db:
            return self._put_all_back(db, lapsed)

    def renew(self, job_ids: Collection[str]) -> None:
        """Go on having these jobs in hand, as far as nobody has taken them over."""
        mine = and_(jobs.id.in_(job_ids), jobs.claimed_by == self.owner)
        with self._database.write() as db:
            # In the order in which `record` locks them: else the two could wait for each other.
            lock_running(db, job_ids)
            change(db, mine, **lease_of(self.owner))

    def let_go(self, job_ids: Collection[str]) -> None:
        """Leave the media of these jobs to others."""
        mine = and_(jobs.id.in_(job_ids), QUEUED, jobs.claimed_by == self.owner)
        with self._database.write() as db:
            change(db, mine, **FREE)

    def claim(self, slot: str) -> Job | None:
        """Take the oldest job of the highest priority whose media are here; None if none is."""
        limit = self._key_limits.running
        claim = claim_of(slot, self.owner, self._now(), limit, self._served)
        with self._database.write() as db:
            if self._database.is_shared and limits_runs(db, limit):
                self._database.take_turn(db, "claims")
            row = db.execute(claim.returning(*JOB_COLUMNS)).one_or_none()
        if row is None:
            return None
        self._tell(None)
        return job_of(row)

    def end_late(self) -> float | None:
        """End the jobs that wait although they should have been started by now.

        Returns the seconds until the next one is due, None if no other has to start in time.
        """
        limited = and_(QUEUED, jobs.start_by.is_not(None))
        with self._database.read() as db:
            first = db.execute(select(func.min(jobs.start_by)).where(limited)).scalar_one()
        if first is None or first > self._now():
            return None if first is None else float(first - self._now())
        with self._write() as db:
            end_all(db, and_(limited, jobs.start_by <= self._now()), self._now(), TOO_LATE)
        return 0.0

    def end_waiting(
        self, error: JobError, *, before: float = math.inf, of: Collection[str] | None = None
    ) -> None:
        """End those that wait, of these endpoints and since before this time, with `error`."""
        waiting = and_(QUEUED, jobs.submitted_at < before, is_served(of))
        with self._database.read() as db:
            if db.execute(select(jobs.seq).where(waiting).limit(1)).first() is None:
                return
        with self._write() as db:
            end_all(db, waiting, self._now(), error)

    def log_to_waiting(self, message: str, *, unserved: bool = False) -> None:
        """Add a line to the log of every job that waits, unless it is there already.

        With `unserved`, of those alone whose endpoint is not served.
        """
        lines = lines_of_waiting(message, self._now(), ~self._served if unserved else true())
        with self._database.read() as db:
            if db.execute(lines.limit(1)).first() is None:
                return
        with self._write() as db:
            db.execute(insert(tables.logs).from_select(lines.selected_columns.keys(), lines))

    def record(self, updates: Collection[RunUpdate]) -> None:
        """Write what runs have to tell, in one transaction; at most one update of each job."""
        job_ids = [update.job_id for update in updates]
        with self._write(logs_of=job_ids) as db:
            attempts = lock_running(db, job_ids)
            held = [each for each in updates if attempts.get(each.job_id) == each.attempt]
            add_lines(db, *held)
            news = {each.job_id: each.progress for each in held if each.progress is not None}
            set_progress(db, news)

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
        with self._write() as db:
            job, now = read_held(db, job_id, attempt), self._now()
            if job is None:
                # It may be this very end, which was committed as the connection broke.
                return are_kept(db, artifacts)
            if job.cancel_requested:
                end(db, job, now, error=CANCELLED)
                return False
            expires_at = None if job.file_lifetime_s is None else now + job.file_lifetime_s
            add_artifacts(db, artifacts, now, job=job, expires_at=expires_at)
            end(db, job, now, result=result, error=error)
            return error is None

    def give_back(
        self, job_id: str, attempt: int, *, keeps_inputs: bool = True, wait_s: float = 0.0
    ) -> None:
        """Put a job back at its old place: its run ended for no fault of the job.

        Without `keeps_inputs` its media are prepared again. It is not run for `wait_s` seconds.
        """
        with self._write() as db:
            job = read_held(db, job_id, attempt)
            if job is None:
                return
            if not keeps_inputs:
                change(db, jobs.id == job_id, input_refs=None)
            if wait_s > 0:
                change(db, jobs.id == job_id, not_before=self._now() + wait_s)
            put_back(db, job, self._now())

    def worker_died(self, job_id: str, attempt: int, error: JobError) -> bool:
        """Count a worker that died on a job, and give the job up with `error` at the second.

        At the first, if its caller wants no second try. Returns whether the job waits again.
        """
        with self._write() as db:
            job = read_held(db, job_id, attempt)
            if job is None:
                return False
            deaths = job.worker_deaths + 1
            change(db, jobs.id == job_id, worker_deaths=deaths)
            is_given_up = deaths >= MAX_WORKER_DEATHS or job.no_retry
            if is_given_up and not job.cancel_requested:
                end(db, job, self._now(), error=error)
                return False
            put_back(db, job, self._now())
            return not job.cancel_requested

    @contextmanager
    def _write(self, *, logs_of: Collection[str] = ()) -> Iterator[Connection]:
        """A transaction that changes the logs of these jobs alone, or any job."""
        with self._database.write() as db:
            yield db
        if not logs_of:
            self._tell(None)
        for job_id in logs_of:
            self._tell(job_id)

    def _tell(self, log_of: str | None) -> None:
        for listener in self._listeners:
            listener(log_of)

    def _add_images(
        self, db: Connection, artifacts: Collection[StoredArtifact], place: MoveIntoPlace
    ) -> None:
        if artifacts:
            self._database.take_turn(db, "images")
            add_artifacts(db, artifacts, self._now())
        place()

    def _put_all_back(self, db: Connection, which: ColumnElement[bool]) -> int:
        running = read_jobs(db, which, to_change=True)
        for job in running:
            put_back(db, job, self._now())
        return len(running)
