"""What the job store promises, said again in plain Python: a model to compare it with."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, select

from server.db import tables
from server.db.rows import AnyRow
from server.errors import (
    IdempotencyMismatch,
    KeyQueueFull,
    QueueFull,
    RequestError,
    TooManySubmits,
    UnknownJob,
)
from server.jobs.limits import MINUTE_S, KeyLimits
from server.models import (
    CANCELLED,
    FETCHED_LIFETIME_S,
    MAX_WORKER_DEATHS,
    TOO_LATE,
    UNFETCHED_LIFETIME_S,
    CancelAnswer,
    JobError,
    JobStatus,
    NewJob,
)

QUEUE_LIMIT = 3
KEEP_S = 3 * 86_400.0

WAITS, RUNS, DONE = JobStatus.IN_QUEUE, JobStatus.IN_PROGRESS, JobStatus.COMPLETED

Refusal = type[QueueFull | KeyQueueFull | TooManySubmits | IdempotencyMismatch | UnknownJob]


@dataclass
class ModelJob:
    """A job as it should be. `result` is the attempt that made the video."""

    new: NewJob
    seq: int
    submitted_at: float
    start_by: float | None
    status: JobStatus = WAITS
    pixels: str | None = None
    attempt: int = 0
    deaths: int = 0
    cancel: bool = False
    slot: str | None = None
    result: int | None = None
    error: JobError | None = None
    finished_at: float = 0.0
    expires_at: float | None = None
    lines: int = 0
    idempotency_key: str | None = None
    is_untold: bool = False

    @property
    def sync_mode(self) -> bool:
        return bool(self.new.input["sync_mode"])

    @property
    def row(self) -> tuple[Any, ...]:
        """What its row should say."""
        error = None if self.error is None else self.error.body
        refs = None if self.pixels is None else {"image": self.pixels}
        run = self.attempt, self.deaths, self.cancel, self.slot, self.result
        num_webhooks = int(self.status is DONE and self.new.webhook_url is not None)
        return self.status.value, refs, *run, error, self.lines, num_webhooks, self.is_untold


@dataclass
class Model:
    """All jobs that are there, at a time that only the rules change."""

    limits: KeyLimits
    now: float = 1000.0
    is_paused: bool = False
    jobs: dict[str, ModelJob] = field(default_factory=dict)
    videos: dict[str, tuple[str | None, float]] = field(default_factory=dict)
    """The job of each, None if that is gone, and since when the video is there."""
    seq: int = 0
    num_ended: int = 0
    """Jobs that ended, those that are gone included."""

    def known(self, job_id: str) -> ModelJob | None:
        """A job that callers can still ask for."""
        job = self.jobs.get(job_id)
        return None if job is None or self._is_expired(job) else job

    def held(self, job_id: str, attempt: int) -> ModelJob | None:
        """The job, if this attempt is the one that runs it."""
        job = self.jobs.get(job_id)
        return job if job and job.status is RUNS and job.attempt == attempt else None

    def in_order(self, status: JobStatus = WAITS) -> list[ModelJob]:
        found = (job for job in self.jobs.values() if job.status is status)
        return sorted(found, key=lambda job: (-job.new.priority, job.seq))

    def submit(self, new: NewJob) -> str | Refusal:
        """The id of the job that the request has, or why it is refused."""
        for job in self._with_token(new):
            if not self._is_expired(job):
                same = job.new.body_sha256 == new.body_sha256
                return job.new.id if same else IdempotencyMismatch
        waiting = self.in_order()
        mine = [job for job in self.jobs.values() if job.new.key_id == new.key_id]
        if new.error is None and len(waiting) >= QUEUE_LIMIT:
            return QueueFull
        if new.key_id is not None:
            of_key = sum(job.status is WAITS for job in mine)
            if new.error is None and _is_full(of_key, self.limits.queued):
                return KeyQueueFull
            latest = sum(job.submitted_at > self.now - MINUTE_S for job in mine)
            if _is_full(latest, self.limits.submits_per_minute):
                return TooManySubmits
        for job in self._with_token(new):
            job.idempotency_key = None
        self.seq += 1
        start_by = None if new.start_timeout_s is None else self.now + new.start_timeout_s
        job = ModelJob(new, self.seq, self.now, start_by, idempotency_key=new.idempotency_key)
        self.jobs[new.id] = job
        if new.error is not None:
            self.end(job, new.error)
            # Its input was not read, so nothing is known of `sync_mode`.
            job.expires_at = None if new.store_io else self.now + UNFETCHED_LIFETIME_S
        return new.id

    def claimable(self) -> ModelJob | None:
        """The one that goes first."""
        for job in self.in_order():
            key, limit = job.new.key_id, self.limits.running
            running = sum(other.new.key_id == key for other in self.in_order(RUNS))
            in_time = job.start_by is None or job.start_by > self.now
            has_share = key is not None and _is_full(running, limit)
            if job.pixels is not None and in_time and not has_share and not self.is_paused:
                return job
        return None

    def claim(self, job: ModelJob, slot: str) -> None:
        job.status, job.slot, job.start_by = RUNS, slot, None
        job.attempt += 1

    def end(self, job: ModelJob, error: JobError | None = None) -> None:
        assert job.status is not DONE
        job.status, job.error, job.finished_at = DONE, error, self.now
        self.num_ended += 1
        job.is_untold = job.new.webhook_url is not None
        if not job.new.store_io or job.sync_mode:
            job.expires_at = self.now + UNFETCHED_LIFETIME_S

    def finish(self, job: ModelJob, video: str | None, error: JobError | None) -> bool:
        if job.cancel:
            self.end(job, CANCELLED)
            return False
        self.end(job, error)
        if video is not None:
            job.result = job.attempt
            self.videos[video] = job.new.id, self.now
        return error is None

    def put_back(self, job: ModelJob) -> None:
        if job.cancel:
            self.end(job, CANCELLED)
        else:
            job.status, job.slot = WAITS, None

    def worker_died(self, job: ModelJob, error: JobError) -> bool:
        job.deaths += 1
        if not job.cancel and (job.deaths >= MAX_WORKER_DEATHS or job.new.no_retry):
            self.end(job, error)
            return False
        self.put_back(job)
        return not job.cancel

    def cancel(self, job: ModelJob) -> CancelAnswer:
        if job.status is DONE:
            return CancelAnswer.ALREADY_COMPLETED
        job.cancel = True
        if job.status is WAITS:
            self.end(job, CANCELLED)
        return CancelAnswer.REQUESTED

    def end_late(self) -> float | None:
        limited = [job for job in self.in_order() if job.start_by is not None]
        if not limited:
            return None
        wait_s = min(job.start_by or 0.0 for job in limited) - self.now
        for job in limited:
            if (job.start_by or 0.0) <= self.now:
                self.end(job, TOO_LATE)
        return max(0.0, wait_s)

    def fetched(self, job: ModelJob) -> None:
        if job.expires_at is not None and not job.is_untold:
            job.expires_at = min(job.expires_at, self.now + FETCHED_LIFETIME_S)

    def is_removable(self, job: ModelJob) -> bool:
        return job.status is DONE and not job.is_untold

    def remove(self, job: ModelJob, *, with_videos: bool = True) -> None:
        del self.jobs[job.new.id]
        for video, (of_job, at) in list(self.videos.items()):
            if of_job == job.new.id and with_videos:
                del self.videos[video]
            elif of_job == job.new.id:
                self.videos[video] = None, at

    def sweep(self) -> None:
        oldest = self.now - KEEP_S
        for job in list(self.jobs.values()):
            is_old = job.finished_at <= oldest
            if self.is_removable(job) and (is_old or self._is_expired(job)):
                self.remove(job, with_videos=is_old or job.sync_mode)
        for video, (of_job, at) in list(self.videos.items()):
            if of_job is None and at <= oldest:
                del self.videos[video]

    def _with_token(self, new: NewJob) -> Iterator[ModelJob]:
        for job in self.jobs.values():
            same = (job.new.key_id, job.idempotency_key) == (new.key_id, new.idempotency_key)
            if new.idempotency_key is not None and same:
                yield job

    def _is_expired(self, job: ModelJob) -> bool:
        return job.expires_at is not None and job.expires_at <= self.now


def outcome(work: Callable[..., Any], *given: Any) -> Any:
    """What it returns, or the kind of the refusal."""
    try:
        return work(*given)
    except RequestError as error:
        return type(error)


def rows_of_jobs(db: Connection) -> dict[str, AnyRow]:
    """The jobs by their ids, each with the counts of its lines and webhooks."""
    jobs, logs, webhooks = tables.jobs.c, tables.logs.c, tables.webhooks.c
    of_job = select(func.count()).where(webhooks.job_id == jobs.id)
    counts = {
        "lines": select(func.count()).where(logs.job_id == jobs.id),
        "webhooks": of_job,
        "untold": of_job.where(webhooks.not_before.is_not(None)),
    }
    columns = [query.scalar_subquery().label(name) for name, query in counts.items()]
    return {row.id: row for row in db.execute(select(tables.jobs, *columns))}


def _is_full(count: int, limit: int | None) -> bool:
    return limit is not None and count >= limit
