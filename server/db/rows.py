"""Between rows and values: the columns that are read, and the rows that are written."""

from typing import Any

from sqlalchemy import Column, ColumnElement, Row

from server.db import tables
from server.models import (
    UNFETCHED_LIFETIME_S,
    Job,
    JobError,
    JobStatus,
    LogLine,
    NewJob,
    StoredArtifact,
)

AnyRow = Row[*tuple[Any, ...]]

JOB_COLUMNS: tuple[ColumnElement[Any], ...] = (
    tables.jobs.c.seq,
    tables.jobs.c.id,
    tables.jobs.c.endpoint,
    tables.jobs.c.base_url,
    tables.jobs.c.key_id,
    tables.jobs.c.status,
    tables.jobs.c.priority,
    tables.jobs.c.attempt,
    tables.jobs.c.worker_deaths,
    tables.jobs.c.cancel_requested,
    tables.jobs.c.input,
    tables.jobs.c.input_refs,
    tables.jobs.c.slot,
    tables.jobs.c.submitted_at,
    tables.jobs.c.started_at,
    tables.jobs.c.finished_at,
    tables.jobs.c.result,
    tables.jobs.c.error,
    tables.jobs.c.http_status,
    tables.jobs.c.webhook_url,
    tables.jobs.c.body_sha256,
    tables.jobs.c.store_io,
    tables.jobs.c.no_retry,
    tables.jobs.c.file_lifetime_s,
)
ARTIFACT_COLUMNS: tuple[Column[Any], ...] = (
    tables.artifacts.c.id,
    tables.artifacts.c.kind,
    tables.artifacts.c.name,
    tables.artifacts.c.content_type,
    tables.artifacts.c.size,
    tables.artifacts.c.sha256,
    tables.artifacts.c.width,
    tables.artifacts.c.height,
    tables.artifacts.c.frames,
    tables.artifacts.c.fps,
)


def row_of_job(new: NewJob, now: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": new.id,
        "endpoint": new.endpoint,
        "base_url": new.base_url,
        "key_id": new.key_id,
        "input": new.input,
        "tier": new.tier,
        "priority": new.priority,
        "webhook_url": new.webhook_url,
        "idempotency_key": new.idempotency_key,
        "body_sha256": new.body_sha256,
        "start_by": None if new.start_timeout_s is None else now + new.start_timeout_s,
        "store_io": new.store_io,
        "no_retry": new.no_retry,
        "file_lifetime_s": new.file_lifetime_s,
        "is_run": new.is_run,
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
    values["status"] = JobStatus(values["status"])
    return Job(**values, error=None if body is None else JobError(http_status, body))


def row_of_line(job_id: str, attempt: int, line: LogLine) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "attempt": attempt,
        "at": line.at,
        "level": line.level,
        "message": line.message,
    }


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
    row = {column.name: getattr(artifact, column.name) for column in ARTIFACT_COLUMNS}
    return row | {
        "job_id": job_id,
        "key_id": key_id,
        "created_at": created_at,
        "expires_at": expires_at,
    }
