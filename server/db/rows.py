"""Between rows and values: the columns that are read, and the rows that are written."""

from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import ColumnElement, Row

from server.db import tables
from server.models import UNFETCHED_LIFETIME_S, Job, JobError, JobStatus, NewJob, StoredArtifact

AnyRow = Row[*tuple[Any, ...]]

JOB_COLUMNS: tuple[ColumnElement[Any], ...] = (
    *(tables.jobs.c[field.name] for field in fields(Job)),
    tables.jobs.c.http_status,
)
ARTIFACT_COLUMNS = tuple(tables.artifacts.c[field.name] for field in fields(StoredArtifact))


def row_of_job(new: NewJob, now: float) -> dict[str, Any]:
    row = asdict(new)
    del row["error"]
    start_timeout_s = row.pop("start_timeout_s")
    row |= {
        "start_by": None if start_timeout_s is None else now + start_timeout_s,
        "submitted_at": now,
        "status": JobStatus.IN_QUEUE.value,
    }
    if new.error is not None:
        row |= {
            "status": JobStatus.COMPLETED.value,
            "finished_at": now,
            "error": new.error.body,
            "http_status": new.error.http_status,
            "expires_at": None if new.store_io else now + UNFETCHED_LIFETIME_S,
        }
    return row


def job_of(row: AnyRow) -> Job:
    values = dict(row._mapping)
    http_status, body = values.pop("http_status"), values.pop("error")
    error = None if body is None else JobError(http_status, body)
    return Job(**values | {"status": JobStatus(row.status), "error": error})


def row_of_webhook(job_id: str, url: str, now: float) -> dict[str, Any]:
    # `urlsplit` refuses some texts, and none may keep a job from ending.
    receiver = url.partition("//")[2].partition("/")[0].partition("?")[0]
    return {
        "job_id": job_id,
        "url": url,
        "receiver": receiver.lower(),
        "created_at": now,
        "not_before": now,
    }


def row_of_artifact(
    artifact: StoredArtifact,
    *,
    job_id: str | None,
    key_id: str | None,
    created_at: float,
    expires_at: float | None = None,
) -> dict[str, Any]:
    return asdict(artifact) | {
        "job_id": job_id,
        "key_id": key_id,
        "created_at": created_at,
        "expires_at": expires_at,
    }
