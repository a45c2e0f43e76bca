"""Jobs with how far they are and what they made, one by one or a page of a key's at a time.

Every function blocks. No statement takes longer for jobs that it does not give.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, select

from server.db import tables
from server.db.database import Database
from server.db.rows import ARTIFACT_COLUMNS, JOB_COLUMNS, AnyRow, job_of
from server.errors import UnknownJob
from server.jobs.statements import is_kept, read_job
from server.models import Job, JobProgress, StoredArtifact

_jobs, _progress, _artifacts = tables.jobs.c, tables.progress.c, tables.artifacts.c


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job, the progress of its latest run, and its video, if it has one.

    `expires_at` is when its video goes, in Unix seconds, if it has a lifetime of its own.
    """

    job: Job
    progress: JobProgress | None = None
    video: StoredArtifact | None = None
    expires_at: float | None = None


def record(database: Database, job_id: str, now: float) -> JobRecord:
    """One job.

    Raises:
        UnknownJob: there is none of that id, or its time is over.
    """
    with database.read() as db:
        (found,) = _records(db, [read_job(db, job_id, now)])
        return found


def page(
    database: Database,
    key_id: str | None,
    *,
    after: str | None,
    limit: int,
    newest_first: bool,
    now: float,
) -> tuple[list[JobRecord], bool]:
    """So many jobs of a key in the order in which they came, and whether there are more.

    They are those that follow the job `after`, or the first.

    Raises:
        UnknownJob: the key has no job `after`.
    """
    of_key = and_(_jobs.key_id == key_id, is_kept(now))
    query = select(*JOB_COLUMNS).where(of_key)
    query = query.order_by(_jobs.seq.desc() if newest_first else _jobs.seq)
    with database.read() as db:
        if after is not None:
            found = db.execute(select(_jobs.seq).where(of_key, _jobs.id == after))
            seq = found.scalar_one_or_none()
            if seq is None:
                raise UnknownJob
            query = query.where(_jobs.seq < seq if newest_first else _jobs.seq > seq)
        jobs = [job_of(row) for row in db.execute(query.limit(limit + 1))]
        return _records(db, jobs[:limit]), len(jobs) > limit


def _records(db: Connection, jobs: Sequence[Job]) -> list[JobRecord]:
    ids = [job.id for job in jobs]
    progress = select(_progress.job_id, _progress.stage, _progress.step, _progress.num_steps)
    runs = {row[0]: row for row in db.execute(progress.where(_progress.job_id.in_(ids)))}
    files = select(_artifacts.job_id, _artifacts.expires_at, *ARTIFACT_COLUMNS)
    # The kind is looked at here: SQLite would go by it, through the videos of all jobs.
    rows = db.execute(files.where(_artifacts.job_id.in_(ids)))
    videos = {row[0]: row for row in rows if row.kind == "video"}
    return [_record(job, runs.get(job.id), videos.get(job.id)) for job in jobs]


def _record(job: Job, run: AnyRow | None, file: AnyRow | None) -> JobRecord:
    progress = None if run is None else JobProgress(*run[1:])
    if file is None:
        return JobRecord(job=job, progress=progress)
    described = dict(file._mapping)
    del described["job_id"]
    expires_at = described.pop("expires_at")
    video = StoredArtifact(**described)
    return JobRecord(job=job, progress=progress, video=video, expires_at=expires_at)
