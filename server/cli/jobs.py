"""`cosmos-serve jobs`: what became of the requests of a data folder, and how to be rid of them.

It works on the database itself, with no need of a key or of a running server.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.progress import Stage
from server.cli.errors import CommandFailed, WrongUsage
from server.cli.open_database import key_id_of, labels_of, open_database, open_files_of
from server.cli.options import Data, OfKey
from server.cli.printing import (
    NOTHING,
    AsJson,
    counted,
    key_text,
    print_columns,
    print_json,
    say_what_is_left_out,
    size_text,
    time_text,
)
from server.cli.removal import DryRun, Yes, confirm
from server.config.settings import DAY_S
from server.models import CancelAnswer, Job, JobProgress, JobSnapshot, JobStatus

if TYPE_CHECKING:
    from server.jobs.store import JobStore

JobId = Annotated[str, typer.Argument(metavar="ID", help="The id that the submit answered with.")]

app = typer.Typer(
    help="List, count, show, cancel and remove the requests of a server, running or not.",
    epilog="\b\nExample:\n"
    "  cosmos-serve jobs list --data data --status IN_QUEUE\n"
    "  cosmos-serve jobs cancel 0b6f3c1e-8f5d-4a53-9f0e-6d1f7a2c9b10\n"
    "  cosmos-serve jobs totals\n"
    "  cosmos-serve jobs purge --older-than-days 30 --key laptop --dry-run",
)


@app.command("list")
def list_jobs(
    data: Data,
    status: Annotated[
        list[JobStatus] | None,
        typer.Option(help="Only those; may be given several times.", case_sensitive=False),
    ] = None,
    key: OfKey = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the latest jobs, the last one first."""
    from server.jobs.reports import latest

    with open_database(data) as database:
        jobs, total = latest(database, limit, status or (), key_id_of(database, key))
        labels = labels_of(database)
    if as_json:
        print_json([_view(job, labels) for job in jobs])
    else:
        _print_jobs(jobs, labels)
        say_what_is_left_out(len(jobs), total)


@app.command()
def totals(data: Data, as_json: AsJson = False) -> None:
    """Count the jobs of each key by their state, and its videos."""
    from server.jobs import reports

    with open_database(data) as database:
        found, labels = reports.totals(database), labels_of(database)
    if as_json:
        print_json(
            [
                {"key_id": key_id, "key": key_text(key_id, labels, None), **asdict(each)}
                for key_id, each in found.items()
            ]
        )
        return
    rows = [(key_text(key_id, labels), each) for key_id, each in found.items()]
    rows.append(("all", sum(found.values(), start=reports.Totals())))
    header = ["KEY", "WAITING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "VIDEOS", "SIZE"]
    counts = [[*map(str, astuple(each)[:-1]), size_text(each.video_bytes)] for _, each in rows]
    print_columns(header, [[name, *row] for (name, _), row in zip(rows, counts, strict=True)])


@app.command()
def show(job_id: JobId, data: Data, as_json: AsJson = False) -> None:
    """Show a job with its log; as JSON with its input and result, too."""
    with _store_of(job_id, data) as (store, labels):
        snapshot = store.standing(job_id)
    if as_json:
        print_json(_full_view(snapshot, labels))
        return
    for name, value in _facts(snapshot, labels):
        print(f"{name:10} {value}")
    if snapshot.lines:
        print()
    for line in snapshot.lines:
        print(f"{time_text(line.at)} {line.level:5} {line.message}")


@app.command()
def cancel(job_id: JobId, data: Data) -> None:
    """Cancel a job that waits at once; stop a running one within a step or two."""
    with _store_of(job_id, data) as (store, _):
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
        typer.Option(metavar="N", min=0, help="All that ended so long ago; 0 is all that ended."),
    ] = None,
    key: OfKey = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Remove jobs that are done, with their videos. Pictures stay, which other jobs may share.

    Say which: by their ids, or else by --older-than-days, --key or both, and then you are asked.
    """
    from server.jobs import retention

    job_ids = job_ids or []
    if bool(job_ids) == (older_than_days is not None or key is not None):
        raise WrongUsage(
            "Say what to remove: either the ids of jobs, or --older-than-days, --key or both."
        )
    with open_database(data) as database:
        which = retention.Purge(
            job_ids=job_ids or None,
            ended_before=None if older_than_days is None else time.time() - older_than_days * DAY_S,
            key_id=key_id_of(database, key),
        )
        if dry_run or not job_ids:
            jobs = retention.to_purge(database, which)
            what = f"{counted(len(jobs), 'job')}, videos included"
            if dry_run:
                _print_jobs(jobs, labels_of(database))
                print(f"This would remove {what}.")
                return
            if jobs:
                confirm(what, yes=yes)
        purged = retention.purge(database, open_files_of(data), which)
    kept = [job_id for job_id in job_ids if job_id not in purged]
    if kept:
        raise CommandFailed(
            f"Removed {len(purged)}. Not removed, because they are unknown, not done, or have a "
            f"webhook still to be sent: {', '.join(kept)}."
        )
    print(f"Removed {len(purged)}.")


@contextmanager
def _store_of(job_id: str, data: Path) -> Iterator[tuple["JobStore", dict[str, str]]]:
    """The store that should have the job, and the labels of keys.

    Raises:
        CommandFailed: it turns out not to.
    """
    from server.errors import UnknownJob
    from server.jobs.store import JobStore

    with open_database(data) as database:
        try:
            yield JobStore(database, owner="cosmos-serve jobs"), labels_of(database)
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


def _print_jobs(jobs: Sequence[Job], labels: Mapping[str, str]) -> None:
    header = ["ID", "STATE", "SUBMITTED", "SECONDS", "KEY", "PROBLEM"]
    print_columns(header, [_row(job, labels) for job in jobs])


def _row(job: Job, labels: Mapping[str, str]) -> list[str]:
    seconds = job.inference_seconds
    spent = NOTHING if seconds is None else f"{seconds:.1f}"
    problem = NOTHING if job.error is None else job.error.message
    key = key_text(job.key_id, labels)
    return [job.id, _state(job), time_text(job.submitted_at), spent, key, problem]


def _facts(snapshot: JobSnapshot, labels: Mapping[str, str]) -> list[tuple[str, str]]:
    job = snapshot.job
    facts = [
        ("id", job.id),
        ("endpoint", job.endpoint),
        ("state", _state(job)),
        ("key", key_text(job.key_id, labels)),
        ("priority", str(job.priority)),
        ("attempts", f"{job.attempt}, of which {job.worker_deaths} ended with their worker"),
        ("submitted", time_text(job.submitted_at)),
        ("started", time_text(job.started_at)),
        ("finished", time_text(job.finished_at)),
    ]
    if job.status is JobStatus.IN_QUEUE:
        facts.append(("ahead", str(snapshot.position)))
    if snapshot.progress is not None:
        facts.append(("stage", _progress_text(snapshot.progress)))
    if job.error is not None:
        facts.append(("problem", job.error.message))
    if job.result is not None and "made_with" in job.result:
        made_with = job.result["made_with"].items()
        facts.append(("made with", ", ".join(f"{name} {value}" for name, value in made_with)))
    return facts


def _progress_text(progress: JobProgress) -> str:
    if progress.stage != Stage.DENOISE or progress.step is None:
        return progress.stage
    return f"{progress.stage}, step {progress.step} of {progress.num_steps}"


def _view(job: Job, labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": job.id,
        "endpoint": job.endpoint,
        "state": _state(job),
        "status": job.status.value,
        "key_id": job.key_id,
        "key": key_text(job.key_id, labels, None),
        "priority": job.priority,
        "attempt": job.attempt,
        "worker_deaths": job.worker_deaths,
        "submitted_at": job.submitted_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "error": None if job.error is None else job.error.body,
    }


def _full_view(snapshot: JobSnapshot, labels: Mapping[str, str]) -> dict[str, Any]:
    logs = [
        {"at": line.at, "level": line.level, "message": line.message} for line in snapshot.lines
    ]
    job = snapshot.job
    known = {"input": job.input, "result": job.result, "position": snapshot.position, "logs": logs}
    return _view(job, labels) | known
