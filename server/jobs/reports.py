"""What metrics and operators read from the tables about all jobs. Every function blocks."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

from sqlalchemy import BigInteger, and_, case, cast, func, select

from server.db import tables
from server.db.database import Database
from server.db.rows import JOB_COLUMNS, job_of
from server.jobs.statements import IN_ORDER, read_run_progress
from server.models import CANCELLED, Job, JobError, JobProgress, JobStatus

_jobs, _artifacts = tables.jobs.c, tables.artifacts.c


@dataclass(frozen=True, slots=True)
class QueueSize:
    """How many jobs wait and run, and how long the oldest that waits has done so."""

    waiting: int
    running: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended; `stage_seconds` is empty unless it made its video.

    `waited_s` is from its submit to the start of its last run, None if it never ran.
    """

    at: float
    error: JobError | None
    stage_seconds: Mapping[str, float]
    waited_s: float | None


def queue_size(database: Database, now: float) -> QueueSize:
    query = select(_jobs.status, func.count(), func.min(_jobs.submitted_at))
    unfinished = [JobStatus.IN_QUEUE.value, JobStatus.IN_PROGRESS.value]
    with database.read() as db:
        rows = db.execute(query.where(_jobs.status.in_(unfinished)).group_by(_jobs.status))
        counts = {status: (count, first) for status, count, first in rows}
    waiting, first = counts.get(JobStatus.IN_QUEUE.value, (0, now))
    running, _ = counts.get(JobStatus.IN_PROGRESS.value, (0, 0.0))
    return QueueSize(waiting, running, max(0.0, now - first))


def count_waiting(database: Database, endpoints: Collection[str]) -> int:
    """How many jobs of these endpoints wait."""
    waiting = and_(_jobs.status == JobStatus.IN_QUEUE.value, _jobs.endpoint.in_(endpoints))
    with database.read() as db:
        return db.execute(select(func.count()).where(waiting)).scalar_one()


def in_progress(database: Database) -> set[str]:
    """The ids of the jobs that a run has claimed and not ended."""
    query = select(_jobs.id).where(_jobs.status == JobStatus.IN_PROGRESS.value)
    with database.read() as db:
        return set(db.execute(query).scalars())


def waiting_for_others(database: Database, endpoints: Collection[str]) -> dict[str, int]:
    """How many jobs wait of each endpoint that is none of these."""
    waiting = and_(_jobs.status == JobStatus.IN_QUEUE.value, _jobs.endpoint.not_in(endpoints))
    query = (
        select(_jobs.endpoint, func.count().label("requests"))
        .where(waiting)
        .group_by(_jobs.endpoint)
    )
    with database.read() as db:
        return {row.endpoint: row.requests for row in db.execute(query)}


def ended_between(database: Database, after: float, until: float) -> list[Ended]:
    """The jobs that ended in that time, in their order: writers take turns, and so do ends."""
    query = select(_jobs.finished_at, _jobs.http_status, _jobs.error, _jobs.result)
    query = query.add_columns((_jobs.started_at - _jobs.submitted_at).label("waited_s"))
    with database.read() as db:
        ended = and_(_jobs.finished_at > after, _jobs.finished_at <= until)
        rows = db.execute(query.where(ended).order_by(_jobs.finished_at)).all()
    return [
        Ended(
            at=row.finished_at,
            error=None if row.error is None else JobError(row.http_status, row.error),
            stage_seconds={} if row.result is None else row.result["stage_seconds"],
            waited_s=row.waited_s,
        )
        for row in rows
    ]


def webhooks_waiting(database: Database) -> int:
    """How many webhooks are still to be delivered."""
    waiting = select(func.count()).where(tables.webhooks.c.not_before >= 0)
    with database.read() as db:
        return db.execute(waiting).scalar_one()


def latest(
    database: Database,
    limit: int,
    statuses: Collection[JobStatus] = (),
    key_id: str | None = None,
) -> tuple[list[Job], int]:
    """The jobs that came last, the latest first, and how many there are, without the limit.

    They are of these statuses, or of all, and of this key, or of all.
    """
    query = select(*JOB_COLUMNS).order_by(_jobs.seq.desc())
    if statuses:
        query = query.where(_jobs.status.in_([status.value for status in statuses]))
    if key_id is not None:
        query = query.where(_jobs.key_id == key_id)
    count = select(func.count()).select_from(query.order_by(None).subquery())
    with database.read() as db:
        jobs = [job_of(row) for row in db.execute(query.limit(limit))]
        return jobs, db.execute(count).scalar_one()


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A job that waits or runs, and how far its run is."""

    job: Job
    progress: JobProgress | None


def unfinished(database: Database, limit: int) -> list[Unfinished]:
    """The jobs that run, and then those that wait, in the order in which they are to be claimed."""
    statuses = [JobStatus.IN_PROGRESS.value, JobStatus.IN_QUEUE.value]
    query = (
        select(*JOB_COLUMNS)
        .where(_jobs.status.in_(statuses))
        # By their names those that run come first.
        .order_by(_jobs.status, *IN_ORDER)
        .limit(limit)
    )
    with database.read() as db:
        jobs = [job_of(row) for row in db.execute(query)]
        return [Unfinished(job, read_run_progress(db, job)) for job in jobs]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The jobs of one key by their state, and its videos, also those that outlived their jobs."""

    waiting: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    videos: int = 0
    video_bytes: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        mine, others = asdict(self), asdict(other)
        return Totals(**{name: mine[name] + others[name] for name in mine})


def totals(database: Database) -> dict[str | None, Totals]:
    """What each key has, by its id; None is where no key was asked for."""
    state = case(
        (_jobs.status == JobStatus.IN_QUEUE.value, "waiting"),
        (_jobs.status == JobStatus.IN_PROGRESS.value, "running"),
        (_jobs.error.is_(None), "succeeded"),
        (_jobs.http_status == CANCELLED.http_status, "cancelled"),
        else_="failed",
    )
    of_jobs = select(_jobs.key_id, state, func.count()).group_by(_jobs.key_id, state)
    owner = func.coalesce(_artifacts.key_id, _jobs.key_id)
    of_videos = (
        select(owner, func.count(), cast(func.sum(_artifacts.size), BigInteger))
        .outerjoin_from(tables.artifacts, tables.jobs, _artifacts.job_id == _jobs.id)
        .where(_artifacts.kind == "video")
        .group_by(owner)
    )
    found: dict[str | None, Totals] = defaultdict(Totals)
    with database.read() as db:
        for key_id, name, count in db.execute(of_jobs):
            found[key_id] += Totals(**{name: count})
        for key_id, count, size in db.execute(of_videos):
            found[key_id] += Totals(videos=count, video_bytes=size)
    return dict(found)
