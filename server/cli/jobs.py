"""`cosmos-serve jobs`: what became of the requests of a data folder, and how to be rid of them."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from server.cli.database import open_database
from server.cli.errors import CommandFailed
from server.cli.printing import NOTHING, columns, json_text, time_text
from server.db.database import Database
from server.errors import UnknownJob
from server.files.store import ArtifactStore
from server.jobs.reports import JobAdmin
from server.jobs.store import JobStore
from server.models import CancelAnswer, Job, JobError, JobProgress, JobSnapshot, JobStatus
from server.settings import DAY_S

_OWNER = "cosmos-serve jobs"


def list_jobs(
    data: Path, *, statuses: Collection[JobStatus] = (), limit: int, as_json: bool
) -> str:
    """The latest jobs, the last one first."""
    with open_database(data) as database:
        jobs = _admin(database, data).latest(limit, statuses)
    if as_json:
        return json_text([_view(job) for job in jobs])
    header = ["ID", "STATE", "SUBMITTED", "SECONDS", "KEY", "PROBLEM"]
    return columns(header, [_row(job) for job in jobs])


def show_job(data: Path, job_id: str, *, as_json: bool) -> str:
    """All that is known of a job, the log of its runs included.

    Raises:
        CommandFailed: there is none of that id.
    """
    with open_database(data) as database:
        store = JobStore(database, owner=_OWNER)
        try:
            standing = store.standing(job_id)
        except UnknownJob as error:
            raise _unknown(job_id) from error
        progress = store.progress(job_id)
    if as_json:
        return json_text(_full_view(standing))
    lines = [f"{name:10} {value}" for name, value in _facts(standing, progress)]
    log = [f"{time_text(line.at)} {line.level:5} {line.message}" for line in standing.lines]
    return "\n".join([*lines, *([""] if log else []), *log])


def cancel_job(data: Path, job_id: str) -> str:
    """Stop a job.

    Raises:
        CommandFailed: there is none of that id, or it is done.
    """
    with open_database(data) as database:
        store = JobStore(database, owner=_OWNER)
        try:
            answer = store.request_cancel(job_id)
        except UnknownJob as error:
            raise _unknown(job_id) from error
        is_over = store.job(job_id).done
    if answer is CancelAnswer.ALREADY_COMPLETED:
        raise CommandFailed(f"The job {job_id} is done already.")
    if is_over:
        return f"The job {job_id} is cancelled."
    return f"The job {job_id} is asked to stop; its run ends within a step or two."


def purge_jobs(data: Path, job_ids: Collection[str]) -> str:
    """Remove these jobs and their videos.

    Raises:
        CommandFailed: some of them are not there, or cannot be removed.
    """
    with open_database(data) as database:
        purged = _admin(database, data).purge(job_ids)
    kept = [job_id for job_id in job_ids if job_id not in purged]
    if kept:
        raise CommandFailed(
            f"Removed {len(purged)}. Not removed, because they are unknown, not done, or have a "
            f"webhook still to be sent: {', '.join(kept)}."
        )
    return f"Removed {len(purged)}."


def purge_old_jobs(data: Path, days: float) -> str:
    """Remove the jobs that ended so long ago, and their videos."""
    with open_database(data) as database:
        purged = _admin(database, data).purge_older_than(days * DAY_S)
    return f"Removed {len(purged)}."


def _admin(database: Database, data: Path) -> JobAdmin:
    return JobAdmin(database, ArtifactStore(data / "files"))


def _unknown(job_id: str) -> CommandFailed:
    return CommandFailed(f"There is no job {job_id!r}. `cosmos-serve jobs list` shows the latest.")


def _state(job: Job) -> str:
    """The state in the words of operators: fal's COMPLETED is also said of what failed."""
    if job.error is not None:
        return "cancelled" if job.error.error_type == "client_cancelled" else "failed"
    words = {
        JobStatus.IN_QUEUE: "waiting",
        JobStatus.IN_PROGRESS: "stopping" if job.cancel_requested else "running",
        JobStatus.COMPLETED: "succeeded",
    }
    return words[job.status]


def _problem(error: JobError | None) -> str:
    if error is None:
        return NOTHING
    detail = error.body["detail"]
    return detail if isinstance(detail, str) else "; ".join(item["msg"] for item in detail)


def _row(job: Job) -> list[str]:
    seconds = job.inference_seconds
    spent = NOTHING if seconds is None else f"{seconds:.1f}"
    state, key_id = _state(job), job.key_id or NOTHING
    return [job.id, state, time_text(job.submitted_at), spent, key_id, _problem(job.error)]


def _facts(standing: JobSnapshot, progress: JobProgress | None) -> list[tuple[str, str]]:
    job = standing.job
    facts = [
        ("id", job.id),
        ("endpoint", job.endpoint),
        ("state", _state(job)),
        ("key", job.key_id or NOTHING),
        ("priority", str(job.priority)),
        ("attempts", f"{job.attempt}, of which {job.worker_deaths} ended with their worker"),
        ("submitted", time_text(job.submitted_at)),
        ("started", time_text(job.started_at)),
        ("finished", time_text(job.finished_at)),
    ]
    if job.status is JobStatus.IN_QUEUE:
        facts.append(("ahead", str(standing.position)))
    if job.status is JobStatus.IN_PROGRESS and progress is not None:
        facts.append(("stage", _progress_text(progress)))
    if job.error is not None:
        facts.append(("problem", _problem(job.error)))
    return facts


def _progress_text(progress: JobProgress) -> str:
    if progress.step is None:
        return progress.stage
    return f"{progress.stage}, step {progress.step} of {progress.num_steps}"


def _view(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "endpoint": job.endpoint,
        "state": _state(job),
        "status": job.status.value,
        "key_id": job.key_id,
        "priority": job.priority,
        "attempt": job.attempt,
        "worker_deaths": job.worker_deaths,
        "submitted_at": job.submitted_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "error": None if job.error is None else job.error.body,
    }


def _full_view(standing: JobSnapshot) -> dict[str, Any]:
    logs = [
        {"at": line.at, "level": line.level, "message": line.message} for line in standing.lines
    ]
    job = standing.job
    known = {"input": job.input, "result": job.result, "position": standing.position, "logs": logs}
    return _view(job) | known
