"""The command `cosmos-serve`. What a command needs is imported when it runs; torch never is."""

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from server.cli import (
    certs,
    database,
    doctor,
    estimate,
    files,
    generate,
    jobs,
    keys,
    node,
    queue,
    serve,
    uploads,
    weights,
)
from server.cli.errors import EXIT_CODES, INTERRUPTED, USAGE, as_failure

app = typer.Typer(
    name="cosmos-serve",
    help="Turn a picture and a prompt into a video with NVIDIA Cosmos-Predict2.5-2B: from the "
    "command line, or as a server that fal clients can talk to.",
    # \b keeps the lines of a paragraph as they are.
    epilog="\b\nTo try it with no GPU and no download:\n"
    "  cosmos-serve weights stand-in tiny\n"
    "  cosmos-serve generate photo.jpg 'The camera pans right.' -o right.mp4 --weights tiny "
    "--frames 25 --steps 12\n\n"
    f"{EXIT_CODES}",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for module in (generate, serve, node, estimate, certs, doctor):
    app.add_typer(module.app)
app.add_typer(weights.app, name="weights")
app.add_typer(keys.app, name="keys")
app.add_typer(jobs.app, name="jobs")
app.add_typer(queue.app, name="queue")
app.add_typer(uploads.app, name="uploads")
app.add_typer(database.app, name="database")
app.add_typer(files.app, name="files")


def main() -> None:
    """Run the command line, and exit with the code that says how it went."""
    _open_closed_streams()
    try:
        code = app(prog_name="cosmos-serve", standalone_mode=False)
    except typer.TyperException as error:
        code = _say(error.format_message(), error.exit_code)
    except typer.Abort:
        code = INTERRUPTED
    except Exception as error:
        failure = as_failure(error)
        if failure is None:
            raise
        code = _say(str(failure), failure.exit_code)
    if code == INTERRUPTED:
        _say("interrupted.", code)
    sys.exit(code)


def _open_closed_streams() -> None:
    """Have `/dev/null` in place of a standard stream that is closed, as it may be for a service.

    The next file that is opened would take its number, and be given what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode)  # noqa: SIM115 - it stays open
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _say(message: str, code: int) -> int:
    print(f"cosmos-serve: {message}", file=sys.stderr)
    return code


@app.callback(invoke_without_command=True)
def about(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print(f"cosmos-serve {importlib.metadata.version('cosmos-serve')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(USAGE)
