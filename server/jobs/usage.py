"""What was used: a row for each job that ended, in the transaction of its end.

The rows outlive their jobs: retention, purges and the deletion of payloads leave them alone.
"""

from collections.abc import Collection, Generator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import Connection, insert, select

from server.db import tables
from server.db.database import Database
from server.models import Job, JobError

_usage = tables.usage.c


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJob:
    """What is kept of a job that ended. `ended_at` is Unix seconds."""

    ended_at: float
    key_id: str | None
    endpoint: str
    http_status: int
    error_type: str | None
    """fal's name of a failure; None for a video, and where the input was at fault."""
    waited_s: float | None
    """Seconds from its submit to its last run; None if it never ran."""
    run_s: float | None
    """Seconds of its last run; None if it never ran."""
    gpu_s: float
    """Seconds of that run times the devices of its slot. Runs before, which were given up, do not
    count."""
    stage_seconds: Mapping[str, float]
    """Seconds of each stage; empty without a video."""

    @property
    def has_video(self) -> bool:
        return self.http_status == 200


def count_end(
    db: Connection,
    job: Job,
    now: float,
    *,
    result: Mapping[str, Any] | None,
    error: JobError | None,
) -> None:
    """Keep what was used by a job that ends now."""
    waited_s = run_s = None
    gpu_s = 0.0
    if job.started_at is not None:
        waited_s = max(0.0, job.started_at - job.submitted_at)
        run_s = max(0.0, now - job.started_at)
        # Devices that work together on a job name its slot, with + between them.
        gpu_s = run_s * ((job.slot or "").count("+") + 1)
    ended = EndedJob(
        ended_at=now,
        key_id=job.key_id,
        endpoint=job.endpoint,
        http_status=200 if error is None else error.http_status,
        error_type=None if error is None else error.error_type,
        waited_s=waited_s,
        run_s=run_s,
        gpu_s=gpu_s,
        stage_seconds={} if result is None else result.get("stage_seconds", {}),
    )
    db.execute(insert(tables.usage).values(asdict(ended)))


def ended_jobs(
    database: Database,
    start: float,
    end: float,
    *,
    endpoints: Collection[str] | None = None,
    key_ids: Collection[str | None] | None = None,
) -> Generator[EndedJob, None, None]:
    """The jobs that ended from `start` until before `end`, in order; blocks.

    They are of these endpoints and keys, or of all. The rows are read as they are asked for, in
    one transaction, which ends with the generator.
    """
    columns = [_usage[field.name] for field in fields(EndedJob)]
    query = select(*columns).where(_usage.ended_at >= start, _usage.ended_at < end)
    if endpoints is not None:
        query = query.where(_usage.endpoint.in_(endpoints))
    if key_ids is not None:
        query = query.where(_usage.key_id.in_(key_ids))
    with database.read() as db:
        for row in db.execute(query.order_by(_usage.ended_at, _usage.id)):
            yield EndedJob(**row._mapping)
