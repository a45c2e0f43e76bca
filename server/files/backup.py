"""A data folder is copied: into a backup, beside its running server, and from a backup back again.

A backup is a data folder without what the next start makes again. Its database gets its name last:
a folder that has no such file is no whole copy.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from server.data_folder import (
    LOCK_FILE,
    SECRETS,
    WRITTEN,
    DataFolderError,
    check_access,
    database_in,
    owned,
    private,
)
from server.db.snapshot import copy_database
from server.files.local import LocalFiles
from server.part_file import part_of, sync_folder

_KEPT = {*WRITTEN, *SECRETS} - {LOCK_FILE, "compiled"}
"""What a restore would replace."""

_OF_THE_DISK = {"lost+found"}
"""What a new file system has."""


class BackupRefused(DataFolderError):
    """The folders are not such that one can be copied to the other; the message says why."""


class Display(Protocol):
    """Shows how far a copy has come."""

    def advance(self, count: int) -> None:
        """So many bytes more are copied."""


Showing = Callable[[int], AbstractContextManager[Display]]
"""Begins a display of so many bytes."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy has: the number of its files, their bytes, and how many were not there."""

    files: int
    size: int
    missing: int


def back_up(data: Path, backup: Path, showing: Showing, *, with_files: bool = True) -> Copied:
    """Copy a data folder, whose server may run, into a new or empty folder.

    Without `with_files` it is database and secrets alone, where the files are in S3. A file that
    the tables name and that is removed before its turn is left out, as by retention.

    Raises:
        BackupRefused: `data` has no database, or `backup` is not empty.
        DataFolderDenied: this user may not read what is to be copied.
        DatabaseDamaged: the tables cannot be read.
        OSError, sqlite3.Error: the disk does not take it; the same call begins again.
    """
    check_access(data)
    if not database_in(data).is_file():
        raise BackupRefused(
            f"There is no database in {data}: name a server's data folder with --data."
        )
    backup.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = {path.name for path in backup.iterdir()} - _OF_THE_DISK
    if there and not _is_unfinished(backup):
        raise BackupRefused(f"{backup} is not empty: name a new folder for the backup.")
    with private():
        return _copy(data, backup, showing, with_files=with_files)


def restore(backup: Path, data: Path, showing: Showing, *, with_files: bool = True) -> Copied:
    """Copy a backup into a data folder that no server uses, and that holds nothing yet.

    `with_files` is as for `back_up`.

    Raises:
        BackupRefused: `backup` is not whole, or `data` has something that would be replaced.
        DataFolderInUse: a server uses `data`.
        DatabaseDamaged: the backup's tables cannot be read.
        OSError, sqlite3.Error: the disk does not take it; the same call begins again.
    """
    if not database_in(backup).is_file():
        why = (
            "it was interrupted, and is not whole"
            if _is_unfinished(backup)
            else "`cosmos-serve database backup` makes one"
        )
        raise BackupRefused(f"There is no backup in {backup}: {why}.")
    # Whether its file system will do is for the server's start to say.
    with owned(data, any_filesystem=True):
        there = sorted(_KEPT & {path.name for path in data.iterdir()})
        if there and not _is_unfinished(data):
            raise BackupRefused(
                f"The data folder {data} has {', '.join(there)}, which a restore would replace: "
                "move it away first, or name a new folder with --data."
            )
        return _copy(backup, data, showing, with_files=with_files)


def _is_unfinished(folder: Path) -> bool:
    """Whether a copy was begun here and has not ended."""
    database = database_in(folder)
    return part_of(database).is_file() and not database.exists()


def _copy(source: Path, target: Path, showing: Showing, *, with_files: bool) -> Copied:
    database = database_in(target)
    # The tables first: each file that they name is there by then, and never changes.
    names = copy_database(database_in(source), part_of(database))
    if not with_files:
        names = {}
    with showing(sum(names.values())) as display:
        copied = _copy_files(
            names, LocalFiles(source / "files"), LocalFiles(target / "files"), display
        )
    for secret in SECRETS:
        if (source / secret).exists():
            shutil.copyfile(source / secret, target / secret)
    # One wait for all files; each of its own would take hours for many.
    os.sync()
    part_of(database).replace(database)
    sync_folder(target)
    return copied


def _copy_files(
    names: dict[str, int], files: LocalFiles, copies: LocalFiles, display: Display
) -> Copied:
    count = size = 0
    for file_id, file_size in names.items():
        copies.path(file_id).parent.mkdir(exist_ok=True)
        try:
            shutil.copyfile(files.path(file_id), copies.path(file_id))
        except FileNotFoundError:
            continue
        finally:
            display.advance(file_size)
        count, size = count + 1, size + file_size
    return Copied(count, size, missing=len(names) - count)
