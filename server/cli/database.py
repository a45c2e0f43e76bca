"""`cosmos-serve database`: back a data folder up beside its running server, and restore it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from server.cli.byte_progress import byte_progress
from server.cli.errors import CommandFailed
from server.cli.options import Data
from server.cli.printing import counted, size_text

if TYPE_CHECKING:
    from server.files.backup import Copied, Showing

app = typer.Typer(
    help="Back a data folder up, beside its running server, and restore it.",
    epilog="\b\nExample:\n  cosmos-serve database backup /backups/monday --data data",
)

Backup = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the backup.")]


@app.command()
def backup(folder: Backup, data: Data) -> None:
    """Copy jobs, keys, videos, uploads and secrets into a new or empty folder.

    A server that runs goes on. The backup holds secrets: keep it as you keep the data folder.
    """
    from server.files.backup import back_up

    copied = _copied(data, lambda showing: back_up(data, folder, showing))
    print(f"{folder}: a backup of {data}, {_described(copied)}")


@app.command()
def restore(folder: Backup, data: Data) -> None:
    """Copy a backup into a data folder that no server uses, and that is new or empty.

    The next start of a server on it takes up the jobs that had not ended.
    """
    from server.files.backup import restore as copy_back

    copied = _copied(folder, lambda showing: copy_back(folder, data, showing))
    print(f"{data}: restored from {folder}, {_described(copied)}")


def _copied(source: Path, copy: "Callable[[Showing], Copied]") -> "Copied":
    from server.data_folder import database_in
    from server.errors import DatabaseDamaged

    try:
        return copy(partial(byte_progress, "Copying", console=Console(stderr=True)))
    except DatabaseDamaged as error:
        raise CommandFailed(f"{database_in(source)} cannot be copied. {error}") from error


def _described(copied: "Copied") -> str:
    text = f"{counted(copied.files, 'file')}, {size_text(copied.size)}"
    if copied.missing:
        text += f"; {counted(copied.missing, 'file')} that it names were not there any more"
    return text
