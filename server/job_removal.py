"""How a job goes: its row with its log, progress and webhook, and its videos, the rows first.

A file that no row knows is removed at the next start; a row whose file is gone would be a promise
that is not kept. The pictures of a job are not its own: `server.pictures` knows when they go.
"""

from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, select, update

from server import tables
from server.jobs import JobStatus

BATCH = 500
"""Jobs removed in one transaction, which others wait for."""

_jobs, _artifacts, _webhooks = tables.jobs.c, tables.artifacts.c, tables.webhooks.c


def is_told() -> ColumnElement[bool]:
    """Nobody is still to be told of a job: a webhook with a time for its next try is not sent."""
    return ~exists().where(and_(_webhooks.job_id == _jobs.id, _webhooks.not_before.is_not(None)))


def can_go() -> ColumnElement[bool]:
    """A job can be removed when it is done, and whoever asked to be told has been."""
    return and_(_jobs.status == JobStatus.COMPLETED.value, is_told())


def remove_jobs(db: Connection, job_ids: Collection[str], *, with_videos: bool = True) -> list[str]:
    """Remove the rows of at most `BATCH` jobs; the files to remove once that is committed.

    Without `with_videos` their videos stay, and belong to no job from then on, but to its key.
    """
    of_jobs = _artifacts.job_id.in_(job_ids)
    videos: list[str] = []
    if with_videos:
        removed = delete(tables.artifacts).where(of_jobs).returning(_artifacts.id)
        videos.extend(db.execute(removed).scalars())
    else:
        # An earlier release wrote it to the job alone.
        of_job = select(_jobs.key_id).where(_jobs.id == _artifacts.job_id).scalar_subquery()
        owner = func.coalesce(_artifacts.key_id, of_job)
        left = update(tables.artifacts).where(of_jobs)
        db.execute(left.values(job_id=None, key_id=owner))
    db.execute(delete(tables.jobs).where(_jobs.id.in_(job_ids)))
    return videos
