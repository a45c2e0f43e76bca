"""The data folder: one server owns it, and commands open its database beside that server."""

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from server.part_file import write_file

LOCK_FILE = "server.lock"
QUARANTINE = "quarantine"
RUN_MARKER = ".cosmos-serve"
"""The file by which a worker's folder in `scratch` is known as ours."""

_DATABASE = "jobs.sqlite3"
WRITTEN = (
    *(_DATABASE, f"{_DATABASE}-wal", f"{_DATABASE}-shm", f"{_DATABASE}-reserve", LOCK_FILE),
    *("files", QUARANTINE, "compiled"),
)
SECRETS = ("key", "token.secret", "webhook-signing-key.pem")

_LOCAL = {
    *{"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs"},
    *{"overlay", "fuse.fuse-overlayfs", "tmpfs", "ramfs"},
}
"""File systems of one machine's own disks and memory, with the locks and the shared memory that a
database with a write-ahead log needs. Those of networks and of virtual machines' hosts may lack
them and say nothing, and the database is corrupted sooner or later."""

_EARLIER_RUN = re.compile("cosmos-[a-z0-9_]{8}")
_TEMPORARY = re.compile("tmp[a-z0-9_]{8}")

_log = structlog.get_logger("server")


class DataFolderError(Exception):
    """The data folder cannot be used; the message says why, and what to do."""


class DataFolderInUse(DataFolderError):
    """Another server owns the data folder."""


class DataFolderNotLocal(DataFolderError):
    """The file system of the data folder is not known to work."""


class DataFolderDenied(DataFolderError):
    """This user may not write the data folder, or something in it."""


class UnusableSecret(DataFolderError):
    """A secret is too short to be one."""


def database_in(folder: Path) -> Path:
    """Where the database of a data folder is."""
    return folder / _DATABASE


def scratch_in(folder: Path) -> Path:
    """Where the workers of a data folder's server keep the files of a run."""
    return folder / "scratch"


def compiled_in(folder: Path) -> Path:
    """Where the workers of a data folder's server keep what they compile."""
    return folder / "compiled"


@contextmanager
def owned(folder: Path, *, any_filesystem: bool = False) -> Iterator[None]:
    """Own the folder, which is made if it is not there, until the end of the block.

    What this process and its children make meanwhile is for this user alone, by their umask.

    The kernel lets go of the lock with the process, however that ends: no lock is left over.
    """
    _make(folder)
    check_access(folder)
    if not any_filesystem:
        check_is_local(folder, Path("/proc/self/mountinfo").read_text())
    # Not inheritable: a worker must not keep the lock of a server that is gone.
    handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with private():
            _lock(handle, folder)
            _close_to_others(folder)
            _write_owner(folder, str(os.getpid()))
            _clear_scratch(folder)
            yield
    finally:
        os.close(handle)


@contextmanager
def private() -> Iterator[None]:
    """What this process makes until the end of the block is for its user alone."""
    former = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(former)


def check_is_free(folder: Path) -> None:
    """See that no server owns the folder, which may not be there.

    Raises:
        DataFolderInUse: one does.
    """
    with contextlib.suppress(OSError), (folder / LOCK_FILE).open() as lock:
        _lock(lock.fileno(), folder)


def tell_stopping(folder: Path, seconds: float) -> None:
    """Let who finds the folder owned know that its server, this one, may take so many seconds more
    to end."""
    _write_owner(folder, f"{os.getpid()} {time.time() + seconds:.0f}")


def _write_owner(folder: Path, text: str) -> None:
    """Say who holds the lock: a process id, and the time of its end if it is to end."""
    # It is for people; on a full disk it is not there.
    with contextlib.suppress(OSError):
        (folder / LOCK_FILE).write_text(text)


def _owner(folder: Path) -> str:
    """The server that holds the lock, and what to do about it."""
    pid, _, ends_at = (folder / LOCK_FILE).read_text().partition(" ")
    which = f" (process {pid})" if pid else ""
    if not ends_at:
        return (
            f"Another server{which} uses the data folder {folder}: stop it, or choose another "
            "folder with --data."
        )
    left_s = max(1, round(float(ends_at) - time.time()))
    return (
        f"The server of the data folder {folder}{which} is still stopping: its jobs have up to "
        f"{left_s} s. Start this one after it."
    )


def check_is_local(folder: Path, mounts: str) -> None:
    """Refuse a folder that is not on a disk of this machine.

    Raises:
        DataFolderNotLocal: by the text of /proc/self/mountinfo, it is on a network, or on a file
            system that this program does not know.
    """
    kind = filesystem_of(folder, mounts)
    if kind not in _LOCAL:
        raise DataFolderNotLocal(
            f"The data folder {folder} is on a file system ({kind or 'not listed'}) that is not "
            "known to be this machine's own disk; elsewhere its database may be corrupted: choose "
            "another folder with --data, or insist with --any-filesystem."
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


def check_access(folder: Path) -> None:
    """See that this user may write what a server writes in the folder, as far as it is there.

    Raises:
        DataFolderDenied: it may not.
    """
    for path, wanted in _accessed(folder):
        # In this order: SQLite's files go as the last program that has them open closes them.
        if not os.access(path, wanted) and os.access(path, os.F_OK):
            raise DataFolderDenied(_denial(folder, path))


def _accessed(folder: Path) -> Iterator[tuple[Path, int]]:
    whole = os.R_OK | os.W_OK | os.X_OK
    yield folder, whole
    yield scratch_in(folder), whole
    for path in map(folder.joinpath, WRITTEN):
        yield path, whole if path.is_dir() else os.R_OK | os.W_OK
    yield from ((path, whole) for path in (folder / "files").glob("??/"))
    yield from ((path, os.R_OK) for path in map(folder.joinpath, SECRETS))


def _denial(folder: Path, path: Path) -> str:
    uid, owner = os.geteuid(), path.stat().st_uid
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{path} is on a file system that is mounted read-only: choose another with --data."
    quoted = shlex.quote(str(folder))
    if owner == uid:
        return f"{path} may not be read and written by its own user: run `chmod -R u+rwX {quoted}`."
    return (
        f"{path} belongs to uid {owner}, and this program runs as uid {uid}, which may not read "
        f"and write it: run it as uid {owner}, or run `chown -R {uid} {quoted}` as root."
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except PermissionError as error:
        uid = os.geteuid()
        raise DataFolderDenied(
            f"The data folder {folder} cannot be made by uid {uid}, as which this program runs: "
            f"run `install -d -o {uid} -m 700 {shlex.quote(str(folder))}` as root, or choose "
            "another folder with --data."
        ) from error


def _close_to_others(folder: Path) -> None:
    """Let nobody else read what is ours in the folder, also of earlier releases, and after
    Kubernetes has given it to the group of `fsGroup`; say what is not ours to close.

    The folder's own mode is left to those who made it.
    """
    for path in (folder, *map(folder.joinpath, (*WRITTEN, *SECRETS))):
        if not path.exists():
            continue
        status = path.stat()
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid == os.geteuid():
            if path != folder and mode & 0o077:
                path.chmod(mode & 0o700)
            continue
        others = {
            f"uid {status.st_uid}": mode & stat.S_IRUSR,
            f"group {status.st_gid}": mode & stat.S_IRGRP,
            "every user": mode & stat.S_IROTH,
        }
        _log.warning(
            "This belongs to another user and is left as it is",
            path=str(path),
            read_by=", ".join(name for name, may in others.items() if may),
        )


def _clear_scratch(folder: Path) -> None:
    """Remove what the workers of a server that was killed could not; nothing else that is there."""
    scratch = scratch_in(folder)
    scratch.mkdir(exist_ok=True)
    for path in scratch.iterdir():
        # What cannot be removed is left: it does no harm.
        with contextlib.suppress(OSError):
            if _is_of_a_worker(path):
                shutil.rmtree(path, ignore_errors=True)


def _is_of_a_worker(path: Path) -> bool:
    """By its marker, or, as earlier releases made none, by its name and all that it holds."""
    if (path / RUN_MARKER).is_file():
        return True
    if not (_EARLIER_RUN.fullmatch(path.name) and path.is_dir()):
        return False
    return all(_TEMPORARY.fullmatch(each.name) for each in path.iterdir())


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataFolderInUse(_owner(folder)) from error


def read_or_make(path: Path, make: Callable[[], bytes], *, at_least: int = 1) -> bytes:
    """What the file holds; if there is none, it is made with mode 0600, whole or not at all.

    Raises:
        UnusableSecret: it holds fewer bytes than `at_least`.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = make()
        write_file(path, content, mode=0o600)
    if len(content) < at_least:
        raise UnusableSecret(
            f"{path} is a secret and has {len(content)} bytes, fewer than {at_least}: restore it, "
            "or remove it, and the next start makes a new one."
        )
    return content
