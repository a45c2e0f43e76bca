"""The data folder: one server owns it, and commands open its database beside that server."""

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from server.part_file import write_file

LOCK_FILE = "server.lock"

_SHARED = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "fuse.sshfs", "fuse.glusterfs"}
"""File systems that several machines use at once. A database with a write-ahead log, which shares
memory between its readers, is corrupted there sooner or later."""


class DataFolderInUse(Exception):
    """Another server owns the data folder; the message says which and what to do."""


class DataFolderShared(Exception):
    """The data folder is on a network; the message says what to do."""


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
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_is_local(folder, Path("/proc/self/mountinfo").read_text())
    # Not inheritable: a worker must not keep the lock of a server that is gone.
    handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(handle, folder)
        _clear_scratch(folder)
        yield
    finally:
        os.close(handle)


def check_is_local(folder: Path, mounts: str) -> None:
    """Refuse a folder that is not on a disk of this machine.

    Raises:
        DataFolderShared: by the text of /proc/self/mountinfo, it is on a network.
    """
    kind = filesystem_of(folder, mounts)
    if kind in _SHARED:
        raise DataFolderShared(
            f"The data folder {folder} is on a network ({kind}), where its database would be "
            "corrupted: choose a folder on a disk of this machine with --data."
        )


def filesystem_of(folder: Path, mounts: str) -> str | None:
    """The type of the file system that holds a folder, by the text of /proc/self/mountinfo."""
    kinds = {}
    for line in mounts.splitlines():
        mount, _, source = line.partition(" - ")
        # Spaces and the like are written in octal, behind a backslash.
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), mount.split()[4])
        kinds[Path(point)] = source.split()[0]
    path = folder.resolve()
    return next((kinds[each] for each in (path, *path.parents) if each in kinds), None)


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


def read_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    """What the file holds; if there is none, it is made with mode 0600, whole or not at all."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        content = make()
    write_file(path, content, mode=0o600)
    return content
