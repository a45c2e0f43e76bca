"""`cosmos-serve database`: back a data folder up beside its running server, restore it, move it."""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from server.cli.byte_progress import byte_progress
from server.cli.errors import CommandFailed, WrongUsage
from server.cli.open_database import database_url, files_url
from server.cli.options import Data
from server.cli.printing import counted, size_text

if TYPE_CHECKING:
    from server.files.backup import Copied, Showing

app = typer.Typer(
    help="Back a data folder up, beside its running server, restore it, and move to PostgreSQL.",
    epilog="\b\nExample:\n  cosmos-serve database backup /backups/monday --data data",
)

Backup = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the backup.")]


@app.command()
def backup(folder: Backup, data: Data) -> None:
    """Copy jobs, keys, videos, uploads and secrets into a new or empty folder.

    A server that runs goes on. The backup holds secrets: keep it as you keep the data folder. Of
    files in S3, by COSMOS_FILES, nothing is copied.
    """
    from server.files.backup import back_up

    _check_sqlite()
    is_here = files_url() is None
    copied = _copied(data, lambda showing: back_up(data, folder, showing, with_files=is_here))
    print(f"{folder}: a backup of {data}, {_described(copied)}")


@app.command()
def restore(folder: Backup, data: Data) -> None:
    """Copy a backup into a data folder that no server uses, and that is new or empty.

    The next start of a server on it takes up the jobs that had not ended.
    """
    from server.files.backup import restore as copy_back

    _check_sqlite()
    is_here = files_url() is None
    copied = _copied(folder, lambda showing: copy_back(folder, data, showing, with_files=is_here))
    print(f"{data}: restored from {folder}, {_described(copied)}")


@app.command()
def copy(data: Data) -> None:
    """Copy the database of a data folder, whose server is stopped, to that of COSMOS_DATABASE.

    Every table is copied, and the secrets of the folder; PostgreSQL's has to be empty. The folder
    is left as it is, with its files, which the server goes on using.
    """
    from server.auth.first_key import KEY_FILE
    from server.data_folder import SECRETS, owned
    from server.db.copy import copy_to_postgres
    from server.db.database import Database
    from server.db.secrets import read_or_make_secret

    url = database_url()
    if url is None:
        raise WrongUsage("COSMOS_DATABASE is not set: it names the database to copy to.")
    with owned(data, any_filesystem=True):
        counts = copy_to_postgres(data, url)
        with closing(Database(url)) as database:
            # The first key is a row.
            for path in (data / name for name in SECRETS if name != KEY_FILE):
                if path.exists():
                    read_or_make_secret(database, path, path.read_bytes)
    for table, count in counts.items():
        print(f"{table:16} {counted(count, 'row')}")
    print(f"Start the server with COSMOS_DATABASE and --data {data}: it goes on from there.")


def _check_sqlite() -> None:
    if database_url() is not None:
        raise CommandFailed(
            "COSMOS_DATABASE names a database of PostgreSQL: back it up and restore it with "
            "pg_dump and pg_restore, and copy the files after the dump: the folder `files` of the "
            "data folder, or the bucket."
        )


def _copied(source: Path, copy: "Callable[[Showing], Copied]") -> "Copied":
    from server.data_folder import database_in
    from server.errors import DatabaseDamaged

    try:
        return copy(partial(byte_progress, "Copying", console=Console(stderr=True)))
    except DatabaseDamaged as error:
        raise CommandFailed(f"{database_in(source)} cannot be copied. {error}") from error


def _described(copied: "Copied") -> str:
    if (url := files_url()) is not None:
        return f"without the files, which are in {url}"
    text = f"{counted(copied.files, 'file')}, {size_text(copied.size)}"
    if copied.missing:
        text += f"; {counted(copied.missing, 'file')} that it names were not there any more"
    return text
