"""The data folder: one server owns it, and commands open its database beside that server."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = "server.lock"


class DataFolderInUse(Exception):
    """Another server owns the data folder; the message says which and what to do."""


def database_in(folder: Path) -> Path:
    """Where the database of a data folder is."""
    return folder / "jobs.sqlite3"


def scratch_in(folder: Path) -> Path:
    """Where the workers of a data folder's server keep the files of a run."""
    return folder / "scratch"


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own the folder, which is made if it is not there, until the end of the block.

    The kernel lets go of the lock with the process, however that ends: no lock is left over.

    Raises:
        DataFolderInUse: another server owns it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Not inheritable: a worker must not keep the lock of a server that is gone.
    handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(handle, folder)
        _clear_scratch(folder)
        yield
    finally:
        os.close(handle)


def _clear_scratch(folder: Path) -> None:
    """Remove what the workers of a server that was killed could not."""
    scratch = scratch_in(folder)
    if scratch.exists():
        shutil.rmtree(scratch)
    scratch.mkdir()


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataFolderInUse(
            f"Another server uses the data folder {folder}: stop it, or choose another folder "
            "with --data."
        ) from error
