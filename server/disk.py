"""What the machine may be short of for a while: disk, memory, files, threads, or its database.

A shortage is a state of the machine that passes, or that an operator ends, and no fault of a job:
what was accepted waits and is tried again. Who cannot be accepted meanwhile is answered with 503,
or 507 for a full disk, and fal's mark that the same request may be sent again.
"""

import errno
import shutil
import socket
import sqlite3
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy.exc

from server.errors import DiskFull, Shortage

MIB = 1024 * 1024

_NO_ROOM = "The server's disk is full. Try again when there is room."
_NO_FILES = "The server has as many files and connections open as it may."
_NO_THREADS = "The machine has no room for another thread or process."
_NO_MEMORY = "The machine is out of memory."
_UNREADABLE = "The server's disk reports errors."
_READ_ONLY = "The server's disk can only be read."
TABLES_LOCKED = "Another program holds the server's database."
WRITES_WAIT = "Too many writes wait for the server's database."
_NO_CONNECTION = "All of the server's connections to its database are in use."
_NOT_OPENED = "The server's database cannot be opened."
_AWAY = "The server's database is away."
_BUSY = "The server's database is busy."
_DATABASE_FULL = "The disk of the server's database is full."

_BY_ERRNO: Mapping[int | None, str] = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EMFILE: _NO_FILES,
    errno.ENFILE: _NO_FILES,
    errno.EAGAIN: _NO_THREADS,  # of a fork
    errno.ENOMEM: _NO_MEMORY,
    errno.EIO: _UNREADABLE,
    errno.EROFS: _READ_ONLY,
}
_BY_SQLITE_CODE: Mapping[int, str] = {
    sqlite3.SQLITE_FULL: _NO_ROOM,
    sqlite3.SQLITE_BUSY: TABLES_LOCKED,
    sqlite3.SQLITE_LOCKED: TABLES_LOCKED,
    sqlite3.SQLITE_PROTOCOL: TABLES_LOCKED,
    sqlite3.SQLITE_NOMEM: _NO_MEMORY,
    sqlite3.SQLITE_IOERR: _UNREADABLE,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: _NOT_OPENED,
}
_BY_SQLSTATE: Mapping[str, str] = {
    "08": _AWAY,
    "25006": _READ_ONLY,  # of a standby, which another has taken the place of
    "25P03": _AWAY,  # this process was stopped within a transaction
    "40": _BUSY,
    "53": _BUSY,
    "53100": _DATABASE_FULL,
    "55P03": _BUSY,
    "57": _AWAY,
    "57014": _BUSY,
}
"""PostgreSQL's codes, and their first two digits, of what passes."""

_ROLLED_BACK = ("40001", "40P01")
"""A serialisation failure, and a deadlock."""

_BY_NAME_LOOKUP: Mapping[int | None, str] = {
    socket.EAI_MEMORY: _NO_MEMORY,
    socket.EAI_SYSTEM: _NO_FILES,
}


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """The space of one folder's disk. Below `min_free_mib` nothing is accepted or started."""

    folder: Path
    min_free_mib: int

    def free_bytes(self) -> int:
        """What is left for this server."""
        return shutil.disk_usage(self.folder).free

    def problem(self) -> str | None:
        """What is wrong, as a sentence; None if there is room."""
        free_mib = self.free_bytes() // MIB
        if free_mib >= self.min_free_mib:
            return None
        return (
            f"The disk of the data folder has {free_mib:,} MiB left, and COSMOS_MIN_FREE_DISK_MIB "
            f"wants {self.min_free_mib:,}."
        )

    def check(self) -> None:
        """See that there is room for what somebody wants to send.

        Raises:
            DiskFull: there is less left than has to stay free.
        """
        problem = self.problem()
        if problem is not None:
            raise DiskFull(f"{problem} Nothing is accepted until there is room again.")


def shortage_of(error: BaseException) -> Shortage | None:
    """What the machine was short of when the error came; None if the error is of another kind.

    What caused the error counts: a picture that was not fetched because no connection could be
    opened is not its caller's fault.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            found = [shortage_of(each) for each in cause.exceptions]
            return found[0] if all(found) else None
        if isinstance(cause, Shortage):
            return cause
        sentence = _sentence(cause)
        if sentence is not None:
            return DiskFull(sentence) if sentence == _NO_ROOM else Shortage(sentence)
        cause = cause.__cause__
    return None


def sqlite_code(error: BaseException) -> int | None:
    """SQLite's primary code of an error of the database; None if the error is not SQLite's."""
    original = getattr(error, "orig", error)
    code = getattr(original, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF


def was_rolled_back(error: BaseException) -> bool:
    """Whether a transaction met another one, and can be done again at once."""
    return getattr(getattr(error, "orig", error), "sqlstate", None) in _ROLLED_BACK


def _sentence_of_postgres(error: BaseException) -> str | None:
    original = getattr(error, "orig", error)
    # Errors of psycopg have it, and None for a connection that was lost or not made.
    if not hasattr(original, "sqlstate"):
        return None
    code = original.sqlstate
    if code is None:
        kinds = {kind.__name__ for kind in type(original).__mro__}
        return _AWAY if "OperationalError" in kinds else None
    return _BY_SQLSTATE.get(code) or _BY_SQLSTATE.get(code[:2])


def _sentence(error: BaseException) -> str | None:
    match error:
        case MemoryError():
            return _NO_MEMORY
        case RuntimeError() if "can't start new thread" in str(error):
            return _NO_THREADS
        case sqlalchemy.exc.TimeoutError():  # of the pool of connections
            return _NO_CONNECTION
        case ssl.SSLError():  # its `errno` is a number of OpenSSL's
            return None
        case socket.gaierror():
            return _BY_NAME_LOOKUP.get(error.errno)
        case OSError():
            return _BY_ERRNO.get(error.errno)
    code = sqlite_code(error)
    return _sentence_of_postgres(error) if code is None else _BY_SQLITE_CODE.get(code)
