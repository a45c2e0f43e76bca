"""`cosmos-serve jobs`: what became of the requests of a data folder, and how to be rid of them.

It works on the database itself, with no need of a key or of a running server.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.database import open_database
from server.cli.errors import CommandFailed, WrongUsage
from server.cli.options import Data
from server.cli.printing import NOTHING, AsJson, print_columns, print_json, time_text
from server.models import CancelAnswer, Job, JobProgress, JobSnapshot, JobStatus
from server.settings import DAY_S

if TYPE_CHECKING:
    from server.jobs.store import JobStore

JobId = Annotated[str, typer.Argument(metavar="ID", help="The id that the submit answered with.")]

app = typer.Typer(
    help="List, show, cancel and remove the requests of a server, running or not.",
    epilog="\b\nExample:\n"
    "  cosmos-serve jobs list --data data --status IN_QUEUE\n"
    "  cosmos-serve jobs cancel 0b6f3c1e-8f5d-4a53-9f0e-6d1f7a2c9b10\n"
    "  cosmos-serve jobs purge --older-than-days 30",
)


@app.command("list")
def list_jobs(
    data: Data,
    status: Annotated[
        list[JobStatus] | None,
        typer.Option(help="Only those; may be given several times.", case_sensitive=False),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the latest jobs, the last one first."""
    from server.jobs.reports import latest

    with open_database(data) as database:
        jobs = latest(database, limit, status or ())
    if as_json:
        print_json([_view(job) for job in jobs])
    else:
        header = ["ID", "STATE", "SUBMITTED", "SECONDS", "KEY", "PROBLEM"]
        print_columns(header, [_row(job) for job in jobs])


@app.command()
def show(job_id: JobId, data: Data, as_json: AsJson = False) -> None:
    """Show a job with its log; as JSON with its input and result, too."""
    with _store_of(job_id, data) as store:
        snapshot, progress = store.standing(job_id), store.progress(job_id)
    if as_json:
        print_json(_full_view(snapshot))
        return
    for name, value in _facts(snapshot, progress):
        print(f"{name:10} {value}")
    if snapshot.lines:
        print()
    for line in snapshot.lines:
        print(f"{time_text(line.at)} {line.level:5} {line.message}")


@app.command()
def cancel(job_id: JobId, data: Data) -> None:
    """Cancel a job that waits at once; stop a running one within a step or two."""
    with _store_of(job_id, data) as store:
        answer = store.request_cancel(job_id)
        is_over = store.job(job_id).done
    if answer is CancelAnswer.ALREADY_COMPLETED:
        raise CommandFailed(f"The job {job_id} is done already.")
    if is_over:
        print(f"The job {job_id} is cancelled.")
    else:
        print(f"The job {job_id} is asked to stop; its run ends within a step or two.")


@app.command()
def purge(
    data: Data,
    job_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="The jobs to remove.")
    ] = None,
    older_than_days: Annotated[
        float | None,
        typer.Option(
            metavar="N", min=0, help="Remove all that ended so long ago instead; 0 is all."
        ),
    ] = None,
) -> None:
    """Remove jobs that are done, with their videos. Pictures stay, which other jobs may share."""
    job_ids = job_ids or []
    if bool(job_ids) == (older_than_days is not None):
        raise WrongUsage("Say what to remove: either the ids of jobs, or --older-than-days.")
    from server.files.store import FileStore
    from server.jobs import retention

    files = FileStore(data / "files")
    with open_database(data) as database:
        if older_than_days is None:
            purged = retention.purge(database, files, job_ids)
        else:
            ended_before = time.time() - older_than_days * DAY_S
            purged = retention.purge_ended_before(database, files, ended_before)
    kept = [job_id for job_id in job_ids if job_id not in purged]
    if kept:
        raise CommandFailed(
            f"Removed {len(purged)}. Not removed, because they are unknown, not done, or have a "
            f"webhook still to be sent: {', '.join(kept)}."
        )
    print(f"Removed {len(purged)}.")


@contextmanager
def _store_of(job_id: str, data: Path) -> Iterator["JobStore"]:
    """The store that should have the job; `CommandFailed` where it turns out not to."""
    from server.errors import UnknownJob
    from server.jobs.store import JobStore

    with open_database(data) as database:
        try:
            yield JobStore(database, owner="cosmos-serve jobs")
        except UnknownJob as error:
            raise CommandFailed(
                f"There is no job {job_id!r}. `cosmos-serve jobs list` shows the latest."
            ) from error


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


def _row(job: Job) -> list[str]:
    seconds = job.inference_seconds
    spent = NOTHING if seconds is None else f"{seconds:.1f}"
    problem = NOTHING if job.error is None else job.error.message
    key_id = job.key_id or NOTHING
    return [job.id, _state(job), time_text(job.submitted_at), spent, key_id, problem]


def _facts(snapshot: JobSnapshot, progress: JobProgress | None) -> list[tuple[str, str]]:
    job = snapshot.job
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
        facts.append(("ahead", str(snapshot.position)))
    if job.status is JobStatus.IN_PROGRESS and progress is not None:
        facts.append(("stage", _progress_text(progress)))
    if job.error is not None:
        facts.append(("problem", job.error.message))
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


def _full_view(snapshot: JobSnapshot) -> dict[str, Any]:
    logs = [
        {"at": line.at, "level": line.level, "message": line.message} for line in snapshot.lines
    ]
    job = snapshot.job
    known = {"input": job.input, "result": job.result, "position": snapshot.position, "logs": logs}
    return _view(job) | known
