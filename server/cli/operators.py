"""The commands of the people who run a server: `keys`, `jobs`, `queue`, on the data folder itself.

They need neither a key nor a server that answers, only the right to write to the folder.
"""

from typing import Annotated

import typer

from server.cli.errors import WrongUsage, expected_errors
from server.cli.options import Data
from server.keys import Scope
from server.models import JobStatus

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="The part of the key before the colon.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The id that the submit answered with.")]

keys_app = typer.Typer(
    help="Make, list and revoke the keys by which callers prove who they are.\n\n"
    "A running server knows of a change within seconds.",
    epilog="\b\nExample:\n"
    "  cosmos-serve keys create laptop --data data\n"
    "  cosmos-serve keys list\n"
    "  cosmos-serve keys revoke 3f9c2a7b81d04e65",
)
jobs_app = typer.Typer(
    help="List, show, cancel and remove the requests of a server, be it running or not.",
    epilog="\b\nExample:\n"
    "  cosmos-serve jobs list --data data --status IN_QUEUE\n"
    "  cosmos-serve jobs cancel 0b6f3c1e-8f5d-4a53-9f0e-6d1f7a2c9b10\n"
    "  cosmos-serve jobs purge --older-than-days 30",
)

queue_app = typer.Typer(
    help="Pause the queue, as before maintenance, and resume it. A pause outlives the server.",
    epilog="\b\nExample:\n  cosmos-serve queue pause --data data",
)


@keys_app.command("create")
def create_key(
    label: Annotated[str, typer.Argument(metavar="LABEL", help="What you will know it by.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(
            help="What the key is for; may be given several times. By default run and files, "
            "which is what a client needs. admin is for operators.",
        ),
    ] = None,
    expires_in_days: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="End the key by itself; by default it stays."),
    ] = None,
    data: Data = None,
) -> None:
    """Make a key and print it, this once: only its hash is kept. Clients call it FAL_KEY."""
    with expected_errors():
        from server.cli.keys import NewKey, create_key
        from server.settings import data_folder

        wish = NewKey(label, scopes=scope or (), expires_in_days=expires_in_days)
        print(create_key(data_folder(data), wish))


@keys_app.command("list")
def list_keys(data: Data = None, as_json: AsJson = False) -> None:
    """List every key that there ever was, without its secret."""
    with expected_errors():
        from server.cli.keys import list_keys
        from server.settings import data_folder

        print(list_keys(data_folder(data), as_json=as_json))


@keys_app.command("revoke")
def revoke_key(key_id: KeyId, data: Data = None) -> None:
    """Make a key, and the tokens that it issued, worthless for ever."""
    with expected_errors():
        from server.cli.keys import revoke_key
        from server.settings import data_folder

        print(revoke_key(data_folder(data), key_id))


@jobs_app.command("list")
def list_jobs(
    status: Annotated[
        list[JobStatus] | None,
        typer.Option(help="Only those; may be given several times.", case_sensitive=False),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many at most.")] = 50,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List the latest jobs, the last one first."""
    with expected_errors():
        from server.cli.jobs import list_jobs
        from server.settings import data_folder

        print(list_jobs(data_folder(data), statuses=status or (), limit=limit, as_json=as_json))


@jobs_app.command("show")
def show_job(job_id: JobId, data: Data = None, as_json: AsJson = False) -> None:
    """Show a job with its log; as JSON with its input and result, too."""
    with expected_errors():
        from server.cli.jobs import show_job
        from server.settings import data_folder

        print(show_job(data_folder(data), job_id, as_json=as_json))


@jobs_app.command("cancel")
def cancel_job(job_id: JobId, data: Data = None) -> None:
    """Cancel a job that waits at once; stop a running one within a step or two."""
    with expected_errors():
        from server.cli.jobs import cancel_job
        from server.settings import data_folder

        print(cancel_job(data_folder(data), job_id))


@jobs_app.command("purge")
def purge_jobs(
    job_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="The jobs to remove.")
    ] = None,
    older_than_days: Annotated[
        float | None,
        typer.Option(
            metavar="N", min=0, help="Remove all that ended so long ago instead; 0 is all."
        ),
    ] = None,
    data: Data = None,
) -> None:
    """Remove jobs that are done, with their videos. Pictures stay, which other jobs may share."""
    if bool(job_ids) == (older_than_days is not None):
        raise WrongUsage("Say what to remove: either the ids of jobs, or --older-than-days.")
    with expected_errors():
        from server.cli.jobs import purge_jobs, purge_old_jobs
        from server.settings import data_folder

        folder = data_folder(data)
        if older_than_days is None:
            print(purge_jobs(folder, job_ids or ()))
        else:
            print(purge_old_jobs(folder, older_than_days))


@queue_app.command("pause")
def pause_queue(data: Data = None) -> None:
    """Start no more jobs; those that run go on, and requests are still accepted."""
    with expected_errors():
        from server.cli.queue import pause_queue
        from server.settings import data_folder

        print(pause_queue(data_folder(data)))


@queue_app.command("resume")
def resume_queue(data: Data = None) -> None:
    """Start jobs again."""
    with expected_errors():
        from server.cli.queue import resume_queue
        from server.settings import data_folder

        print(resume_queue(data_folder(data)))
