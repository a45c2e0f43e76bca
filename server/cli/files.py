"""`cosmos-serve files`: move the files of a data folder to S3, and clear up there."""

from functools import partial
from pathlib import Path

import typer
from rich.console import Console

from server.cli.byte_progress import byte_progress
from server.cli.errors import CommandFailed, WrongUsage
from server.cli.open_database import files_url, open_database, open_files_of
from server.cli.options import Data
from server.cli.printing import counted, print_columns, size_text
from server.cli.removal import DryRun, Yes, confirm

app = typer.Typer(
    help="Move the videos and uploads of a data folder to S3, and remove what crashes left there.",
    epilog="\b\nExample:\n"
    "  export COSMOS_FILES=s3://videos/cosmos\n"
    "  cosmos-serve files copy --data /srv/cosmos\n"
    "  cosmos-serve files prune --data /srv/cosmos --dry-run",
)


@app.command()
def copy(data: Data) -> None:
    """Copy the files of a data folder, whose server is stopped, to the bucket of COSMOS_FILES.

    Each is read from there again, and compared by its hash. The folder is left as it is. Done
    twice, it copies what is new. URLs from before are answered by a server with COSMOS_FILES.
    """
    from server.data_folder import owned
    from server.files.copy import copy_files
    from server.files.local import LocalFiles

    url = _bucket_url()
    showing = partial(byte_progress, "Copying", console=Console(stderr=True))
    with owned(data, any_filesystem=True), open_database(data) as database:
        target = open_files_of(data)
        found = copy_files(database, LocalFiles(data / "files"), target, showing)
    print(f"{url}: {counted(found.copied, 'file')} copied, {size_text(found.size)}")
    if found.there:
        print(f"{counted(found.there, 'file')} had been copied before")
    if found.missing:
        print(f"{counted(len(found.missing), 'file')} that the tables name were not in {data}")
    if found.damaged:
        raise CommandFailed(_damage(data, found.damaged))
    print(f"Start the server with COSMOS_FILES={url}: it goes on from there.")


@app.command()
def prune(data: Data, dry_run: DryRun = False, yes: Yes = False) -> None:
    """Remove from the bucket of COSMOS_FILES what no row of the database names, and that is older
    than a day: a server that was killed left it.

    Servers may run meanwhile. If the database is an older copy, put the right one back first:
    videos that are newer than the copy would be removed, and nothing brings them back.
    """
    from server.files.s3 import S3Files
    from server.files.unknown_files import unknown_objects

    url = _bucket_url()
    files = open_files_of(data)
    assert isinstance(files, S3Files)
    with open_database(data) as database:
        unknown = unknown_objects(database, files)
    what = f"{counted(len(unknown), 'file')} of {url}, which the database does not know"
    if dry_run:
        print_columns(["ID"], [[each] for each in unknown])
        print(f"This would remove {what}.")
        return
    if unknown:
        confirm(what, yes=yes)
        files.remove(*unknown)
    print(f"Removed {len(unknown)}.")


def _bucket_url() -> str:
    url = files_url()
    if url is None:
        raise WrongUsage("COSMOS_FILES is not set: it names the bucket.")
    return url


def _damage(data: Path, ids: list[str]) -> str:
    return (
        f"{counted(len(ids), 'file')} in {data / 'files'} have other bytes than when they came, "
        f"and were not copied: {', '.join(ids)}."
    )
