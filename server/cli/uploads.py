"""`cosmos-serve uploads`: the files that callers sent to a data folder, and how to be rid of them.

It works on the database itself, with no need of a key or of a running server.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.errors import CommandFailed, WrongUsage
from server.cli.open_database import key_id_of, labels_of, open_database, open_files_of
from server.cli.options import Data, OfKey
from server.cli.printing import (
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

if TYPE_CHECKING:
    from server.files.upload_reports import UploadedFile

app = typer.Typer(
    help="List and remove the files that callers uploaded to a server, running or not.",
    epilog="\b\nExample:\n"
    "  cosmos-serve uploads list --data data --key laptop\n"
    "  cosmos-serve uploads purge --older-than-days 30 --dry-run",
)


@app.command("list")
def list_uploads(
    data: Data,
    key: OfKey = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the latest uploads, the last one first."""
    from server.files.upload_reports import Uploaded, uploaded

    with open_database(data) as database:
        files, total = uploaded(database, Uploaded(key_id=key_id_of(database, key)), limit)
        labels = labels_of(database)
    if as_json:
        print_json([asdict(file) for file in files])
    else:
        _print_files(files, labels)
        say_what_is_left_out(len(files), total)


@app.command()
def purge(
    data: Data,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="The uploads to remove.")
    ] = None,
    older_than_days: Annotated[
        float | None,
        typer.Option(metavar="N", min=0, help="All that came so long ago; 0 is all."),
    ] = None,
    key: OfKey = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Remove uploads: their URLs are gone at once. What requests have read of them stays.

    Say which: by their ids, or else by --older-than-days, --key or both, and then you are asked.
    """
    from server.files.upload_reports import Uploaded, purge_uploads, uploaded

    ids = ids or []
    if bool(ids) == (older_than_days is not None or key is not None):
        raise WrongUsage(
            "Say what to remove: either the ids of uploads, or --older-than-days, --key or both."
        )
    with open_database(data) as database:
        which = Uploaded(
            ids=ids or None,
            before=None if older_than_days is None else time.time() - older_than_days * DAY_S,
            key_id=key_id_of(database, key),
        )
        if dry_run or not ids:
            files, _ = uploaded(database, which)
            size = size_text(sum(file.size for file in files))
            what = f"{counted(len(files), 'upload')} of {size} together"
            if dry_run:
                _print_files(files, labels_of(database))
                print(f"This would remove {what}.")
                return
            if files:
                confirm(what, yes=yes)
        purged = purge_uploads(database, open_files_of(data), which)
    unknown = [each for each in ids if each not in purged]
    if unknown:
        raise CommandFailed(
            f"Removed {len(purged)}. There are no uploads {', '.join(unknown)}: "
            "`cosmos-serve uploads list` shows them."
        )
    print(f"Removed {len(purged)}.")


def _print_files(files: Sequence["UploadedFile"], labels: Mapping[str, str]) -> None:
    header = ["ID", "NAME", "SIZE", "CAME", "EXPIRES", "KEY"]
    print_columns(header, [_row(file, labels) for file in files])


def _row(file: "UploadedFile", labels: Mapping[str, str]) -> list[str]:
    times = [time_text(file.created_at), time_text(file.expires_at)]
    return [file.id, file.name, size_text(file.size), *times, key_text(file.key_id, labels)]
