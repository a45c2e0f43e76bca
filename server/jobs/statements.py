"""What the transactions of the job store are made of: conditions, reads, and steps of a write."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Update,
    and_,
    bindparam,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    true,
    update,
)

from server.db import tables
from server.db.leases import FREE, is_free, lease_of
from server.db.rows import (
    ARTIFACT_COLUMNS,
    JOB_COLUMNS,
    job_of,
    row_of_artifact,
    row_of_webhook,
)
from server.errors import IdempotencyMismatch, UnknownJob
from server.jobs.limits import fewest_first, has_less_than_share, may_run_another
from server.jobs.pause import is_paused
from server.jobs.usage import count_end
from server.models import (
    CANCELLED,
    TRANSITIONS,
    UNFETCHED_LIFETIME_S,
    Job,
    JobError,
    JobProgress,
    JobStatus,
    LogLine,
    RunUpdate,
    StoredArtifact,
)

jobs = tables.jobs.c

IN_ORDER = (jobs.priority.desc(), jobs.seq)
QUEUED = jobs.status == JobStatus.IN_QUEUE.value
RUNNING = jobs.status == JobStatus.IN_PROGRESS.value


def held(job_id: str, attempt: int) -> ColumnElement[bool]:
    """The job, if this attempt is the one that runs it."""
    return and_(jobs.id == job_id, jobs.attempt == attempt, RUNNING)


def is_served(endpoints: Collection[str] | None) -> ColumnElement[bool]:
    """The jobs of these endpoints; of all, if it is None."""
    return true() if endpoints is None else jobs.endpoint.in_(endpoints)


def is_ready(now: float, served: ColumnElement[bool]) -> ColumnElement[bool]:
    """The jobs that need nothing but a slot; `served` is which have their weights."""
    return and_(
        QUEUED,
        served,
        ~is_paused(),
        jobs.input_refs.is_not(None),
        or_(jobs.not_before.is_(None), jobs.not_before <= now),
        or_(jobs.start_by.is_(None), jobs.start_by > now),
    )


def is_kept(now: float) -> ColumnElement[bool]:
    """The jobs whose time is not over."""
    return or_(jobs.expires_at.is_(None), jobs.expires_at > now)


def claim_of(
    slot: str,
    owner: str,
    now: float,
    running_limit: int | None,
    served: ColumnElement[bool],
) -> Update:
    """Give the first job that is ready to a slot. From then on it can no longer start too late.

    The jobs of a key of which as many run as may are passed over, and those that are not served;
    `running_limit` is for keys that have no limit of their own.
    """
    ready = and_(is_ready(now, served), may_run_another(running_limit))
    first = select(jobs.seq).where(ready).order_by(*IN_ORDER).limit(1)
    return (
        update(tables.jobs)
        .where(jobs.seq == _unless_locked(first))
        .values(
            status=JobStatus.IN_PROGRESS.value,
            attempt=jobs.attempt + 1,
            slot=slot,
            **lease_of(owner),
            started_at=now,
            start_by=None,
        )
    )


def awaits_inputs(owner: str, places: int, in_hand: Collection[Job]) -> Select[int]:
    """The place of the next job without its media that nobody else has in hand.

    Of the `places` in which media are prepared the owner has some `in_hand`.
    """
    by_key = Counter(job.key_id for job in in_hand)
    waiting = and_(
        QUEUED,
        jobs.input_refs.is_(None),
        jobs.id.not_in([job.id for job in in_hand]),
        has_less_than_share(by_key, places),
        or_(is_free(tables.jobs), jobs.claimed_by == owner),
    )
    return select(jobs.seq).where(waiting).order_by(fewest_first(by_key), *IN_ORDER).limit(1)


def intake_of(owner: str, first: Select[int]) -> Update:
    """Take the job whose media are to be prepared."""
    return update(tables.jobs).where(jobs.seq == _unless_locked(first)).values(**lease_of(owner))


def _unless_locked(first: Select[int]) -> ColumnElement[int]:
    """The first job that no other transaction is about to change."""
    return first.with_for_update(skip_locked=True, key_share=True).scalar_subquery()


def read_job(db: Connection, job_id: str, now: float, *, to_change: bool = False) -> Job:
    """Read one job; if `to_change`, nobody else changes it before the transaction ends.

    Raises:
        UnknownJob: there is none of that id, or it was not to be kept for so long.
    """
    query = select(*JOB_COLUMNS).where(and_(jobs.id == job_id, is_kept(now)))
    if to_change:
        query = query.with_for_update(key_share=True)
    row = db.execute(query).one_or_none()
    if row is None:
        raise UnknownJob
    return job_of(row)


def read_jobs(db: Connection, which: ColumnElement[bool], *, to_change: bool = False) -> list[Job]:
    """Read jobs, in the order in which they came; `to_change` passes over those that others
    change."""
    query = select(*JOB_COLUMNS).where(which).order_by(jobs.seq)
    if to_change:
        query = query.with_for_update(skip_locked=True, key_share=True)
    return [job_of(row) for row in db.execute(query)]


def read_resubmitted(
    db: Connection,
    key_id: str | None,
    idempotency_key: str | None,
    body_sha256: str | None,
    now: float,
) -> Job | None:
    """The job that was submitted with this idempotency key before.

    Raises:
        IdempotencyMismatch: it came of another request.
    """
    if idempotency_key is None:
        return None
    known = and_(_submitted_with(key_id, idempotency_key), is_kept(now))
    row = db.execute(select(*JOB_COLUMNS).where(known)).one_or_none()
    if row is None:
        return None
    if row.body_sha256 != body_sha256:
        raise IdempotencyMismatch
    return job_of(row)


def free_expired_key(
    db: Connection, key_id: str | None, idempotency_key: str | None, now: float
) -> None:
    """Let an idempotency key be used again whose job was not to be kept for so long."""
    if idempotency_key is not None:
        expired = and_(_submitted_with(key_id, idempotency_key), ~is_kept(now))
        change(db, expired, idempotency_key=None)


def read_held(db: Connection, job_id: str, attempt: int) -> Job | None:
    """The job that this attempt runs, which nobody else changes before the transaction ends."""
    query = select(*JOB_COLUMNS).where(held(job_id, attempt)).with_for_update(key_share=True)
    row = db.execute(query).one_or_none()
    return None if row is None else job_of(row)


def lock_running(db: Connection, job_ids: Collection[str]) -> dict[str, int]:
    """The attempts of those of the jobs that run, which nobody else changes before the end of the
    transaction. Locked in their order, so that no two transactions wait for each other."""
    running = and_(jobs.id.in_(job_ids), RUNNING)
    query = select(jobs.id, jobs.attempt).where(running).order_by(jobs.seq)
    rows = db.execute(query.with_for_update(key_share=True))
    return {row.id: row.attempt for row in rows}


def read_artifact(db: Connection, artifact_id: str, now: float) -> StoredArtifact | None:
    artifacts = tables.artifacts.c
    kept = or_(artifacts.expires_at.is_(None), artifacts.expires_at > now)
    query = select(*ARTIFACT_COLUMNS).where(and_(artifacts.id == artifact_id, kept))
    row = db.execute(query).one_or_none()
    return None if row is None else StoredArtifact(**row._mapping)


def count_queued(db: Connection) -> int:
    return db.execute(select(func.count()).select_from(tables.jobs).where(QUEUED)).scalar_one()


def count_ahead(db: Connection, job: Job, served: ColumnElement[bool]) -> int:
    """How many jobs wait, are served, and go before this one; 0 if it does not wait."""
    if job.status is not JobStatus.IN_QUEUE:
        return 0
    earlier = and_(jobs.priority == job.priority, jobs.seq < job.seq)
    ahead = and_(QUEUED, served, or_(jobs.priority > job.priority, earlier))
    return db.execute(select(func.count()).where(ahead)).scalar_one()


def change(db: Connection, which: ColumnElement[bool], **values: Any) -> None:
    db.execute(update(tables.jobs).where(which).values(**values))


def end(
    db: Connection,
    job: Job,
    now: float,
    *,
    result: Mapping[str, Any] | None = None,
    error: JobError | None = None,
) -> None:
    """Complete a job; its webhook, if it has one, is due, and its use is counted."""
    values: dict[str, Any] = {
        "finished_at": now,
        "result": result,
        "error": None if error is None else error.body,
        "http_status": 200 if error is None else error.http_status,
        **FREE,
    }
    if not job.is_kept:
        # One that was deleted while it ran is over already.
        values["expires_at"] = func.coalesce(jobs.expires_at, now + UNFETCHED_LIFETIME_S)
    if not job.store_io:
        values["input"] = {"sync_mode": job.sync_mode}
    _move(db, job, JobStatus.COMPLETED, **values)
    note_end(db, job, now, result=result, error=error)


def end_all(db: Connection, which: ColumnElement[bool], now: float, error: JobError) -> None:
    """Complete jobs with an error."""
    for job in read_jobs(db, which, to_change=True):
        end(db, job, now, error=error)


def note_end(
    db: Connection,
    job: Job,
    now: float,
    *,
    result: Mapping[str, Any] | None = None,
    error: JobError | None = None,
) -> None:
    """What goes with the end of a job: its use, and its webhook, if one was asked for."""
    count_end(db, job, now, result=result, error=error)
    if job.webhook_url is not None:
        db.execute(insert(tables.webhooks).values(row_of_webhook(job.id, job.webhook_url, now)))


def put_back(db: Connection, job: Job, now: float) -> None:
    """Put a running job back at its place, unless its caller wants it stopped."""
    if job.cancel_requested:
        end(db, job, now, error=CANCELLED)
        return
    _move(db, job, JobStatus.IN_QUEUE, slot=None, started_at=None, **FREE)


def add_artifacts(
    db: Connection,
    artifacts: Collection[StoredArtifact],
    now: float,
    *,
    job: Job | None = None,
    expires_at: float | None = None,
) -> None:
    """Add the rows of files that are there: of a job and its key, or of many jobs."""
    job_id, key_id = (None, None) if job is None else (job.id, job.key_id)
    for artifact in artifacts:
        # A picture that was sent before has the same id and the same bytes.
        known = select(tables.artifacts.c.id).where(tables.artifacts.c.id == artifact.id)
        if db.execute(known).one_or_none() is None:
            row = row_of_artifact(
                artifact, job_id=job_id, key_id=key_id, created_at=now, expires_at=expires_at
            )
            db.execute(insert(tables.artifacts).values(row))
        else:
            # It may have been about to go, and is wanted again.
            wanted = update(tables.artifacts).where(tables.artifacts.c.id == artifact.id)
            db.execute(wanted.values(expires_at=None))


def are_kept(db: Connection, artifacts: Collection[StoredArtifact]) -> bool:
    """Whether there are files, and the tables have all of them."""
    ids = [artifact.id for artifact in artifacts]
    known = select(func.count()).where(tables.artifacts.c.id.in_(ids))
    return bool(ids) and db.execute(known).scalar_one() == len(ids)


def add_lines(db: Connection, *updates: RunUpdate) -> None:
    """Add lines to the logs of jobs."""
    rows = [
        {"job_id": each.job_id, "attempt": each.attempt, **asdict(line)}
        for each in updates
        for line in each.lines
    ]
    if rows:
        db.execute(insert(tables.logs), rows)


def read_lines(db: Connection, job_id: str) -> list[LogLine]:
    """The log of a job, oldest line first."""
    logs = tables.logs.c
    query = select(logs.at, logs.level, logs.message).where(logs.job_id == job_id)
    return [LogLine(*row) for row in db.execute(query.order_by(logs.id))]


def read_progress(db: Connection, job_id: str) -> JobProgress | None:
    columns = tables.progress.c
    query = select(columns.stage, columns.step, columns.num_steps)
    row = db.execute(query.where(columns.job_id == job_id)).one_or_none()
    return None if row is None else JobProgress(*row)


def read_run_progress(db: Connection, job: Job) -> JobProgress | None:
    """How far the run of a job has come; None unless it runs and has told of it."""
    return read_progress(db, job.id) if job.status is JobStatus.IN_PROGRESS else None


def set_progress(db: Connection, progress: Mapping[str, JobProgress]) -> None:
    """Note how far the runs of jobs have come."""
    columns = tables.progress.c
    known = set(db.execute(select(columns.job_id).where(columns.job_id.in_(progress))).scalars())
    rows = {job_id: asdict(each) for job_id, each in progress.items()}
    # A value that a row is found by cannot be called as its column is.
    old = [{"of_job": job_id, **row} for job_id, row in rows.items() if job_id in known]
    new = [{"job_id": job_id, **row} for job_id, row in rows.items() if job_id not in known]
    if old:
        db.execute(update(tables.progress).where(columns.job_id == bindparam("of_job")), old)
    if new:
        db.execute(insert(tables.progress), new)


def _submitted_with(key_id: str | None, idempotency_key: str) -> ColumnElement[bool]:
    same_caller = jobs.key_id.is_(None) if key_id is None else jobs.key_id == key_id
    return and_(same_caller, jobs.idempotency_key == idempotency_key)


def _move(db: Connection, job: Job, status: JobStatus, **values: Any) -> None:
    assert status in TRANSITIONS[job.status], f"a job went from {job.status} to {status}"
    change(db, jobs.id == job.id, status=status.value, **values)


def lines_of_waiting(message: str, now: float, which: ColumnElement[bool]) -> Select[Any]:
    """A line for the log of each job that waits and does not have it, as the columns of `logs`."""
    logs = tables.logs.c
    logged = exists().where(and_(logs.job_id == jobs.id, logs.message == message))
    return select(
        jobs.id.label("job_id"),
        jobs.attempt,
        literal(now).label("at"),
        literal("INFO").label("level"),
        literal(message).label("message"),
    ).where(and_(QUEUED, which, ~logged))
