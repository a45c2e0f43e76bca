"""The requests that have ended, the latest or the longest first, a page at a time."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, Connection, and_, or_, select, tuple_

from server.db import tables
from server.db.database import Database
from server.db.rows import ARTIFACT_COLUMNS, JOB_COLUMNS, job_of
from server.jobs.statements import is_kept
from server.models import Job, StoredArtifact

_jobs, _artifacts = tables.jobs.c, tables.artifacts.c

Place = tuple[float, int]
"""Where a page ended: what its last job is sorted by, and its `seq`."""


class Outcome(StrEnum):
    """How a request ended, in fal's words: with a video, by its caller's fault, or by another's."""

    SUCCESS = "success"
    USER_ERROR = "user_error"
    ERROR = "error"


class SortBy(StrEnum):
    """What comes first: the latest end, or the longest time from submit to end."""

    ENDED_AT = "ended_at"
    DURATION = "duration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which requests: those that ended from `start` until before `end`, in Unix seconds.

    They are of these endpoints, and of these keys, or of all.
    """

    start: float
    end: float
    endpoints: Collection[str]
    key_ids: Collection[str | None] | None = None
    outcome: Outcome | None = None
    job_id: str | None = None
    sort_by: SortBy = SortBy.ENDED_AT


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the jobs, with the outputs that are still here, and where the next page begins.

    `videos` and `thumbnails` have them by the job.
    """

    jobs: Sequence[Job]
    videos: Mapping[str, StoredArtifact]
    thumbnails: Mapping[str, StoredArtifact]
    next: Place | None


_OF_STATUS: Mapping[Outcome, ColumnElement[bool]] = {
    Outcome.SUCCESS: _jobs.http_status < 400,
    Outcome.USER_ERROR: and_(_jobs.http_status >= 400, _jobs.http_status < 500),
    Outcome.ERROR: _jobs.http_status >= 500,
}
_SORTED_BY: Mapping[SortBy, ColumnElement[float]] = {
    SortBy.ENDED_AT: _jobs.finished_at,
    SortBy.DURATION: _jobs.finished_at - _jobs.submitted_at,
}


def requests(
    database: Database, wanted: Wanted, now: float, *, limit: int, after: Place | None = None
) -> Page:
    """A page of at most `limit` requests; blocks."""
    order = _SORTED_BY[wanted.sort_by]
    place = tuple_(order, _jobs.seq)
    which = _condition(wanted, now)
    if after is not None:
        which = and_(which, place < after)
    first = select(_jobs.seq).where(which).order_by(order.desc(), _jobs.seq.desc())
    with database.read() as db:
        # Rows are large: the page is found by its numbers, and then read.
        numbers = list(db.execute(first.limit(limit + 1)).scalars())
        found = select(*JOB_COLUMNS).where(_jobs.seq.in_(numbers))
        jobs = [job_of(row) for row in db.execute(found)]
        jobs.sort(key=lambda job: numbers.index(job.seq))
        page = jobs[:limit]
        made = _made_by(db, [job.id for job in page], now)
    next_ = _place_of(page[-1], wanted.sort_by) if len(jobs) > limit else None
    return Page(page, made["video"], made["thumbnail"], next_)


def _made_by(
    db: Connection, job_ids: Collection[str], now: float
) -> Mapping[str, Mapping[str, StoredArtifact]]:
    """What jobs made and is still here: by its kind, and then by the job."""
    kept = or_(_artifacts.expires_at.is_(None), _artifacts.expires_at > now)
    query = select(_artifacts.job_id, *ARTIFACT_COLUMNS)
    found: dict[str, dict[str, StoredArtifact]] = defaultdict(dict)
    for row in db.execute(query.where(_artifacts.job_id.in_(job_ids), kept)):
        values = dict(row._mapping)
        job_id = values.pop("job_id")
        # The kind is not asked for by the statement: SQLite would look at every video.
        found[row.kind][job_id] = StoredArtifact(**values)
    return found


def _condition(wanted: Wanted, now: float) -> ColumnElement[bool]:
    which = and_(
        _jobs.finished_at >= wanted.start,
        _jobs.finished_at < wanted.end,
        _jobs.endpoint.in_(wanted.endpoints),
        is_kept(now),
    )
    if wanted.key_ids is not None:
        which = and_(which, _jobs.key_id.in_(wanted.key_ids))
    if wanted.outcome is not None:
        which = and_(which, _OF_STATUS[wanted.outcome])
    if wanted.job_id is not None:
        which = and_(which, _jobs.id == wanted.job_id)
    return which


def _place_of(job: Job, sort_by: SortBy) -> Place:
    assert job.finished_at is not None, "a job that has not ended was listed"
    if sort_by is SortBy.ENDED_AT:
        return job.finished_at, job.seq
    return job.finished_at - job.submitted_at, job.seq
