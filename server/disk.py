"""The disk of the data folder: how much of it has to stay free, and what happens when it is full.

A full disk is a state of the machine that an operator ends, and no fault of a job: what was
accepted waits until there is room.
"""

import asyncio
import errno
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy.exc import DBAPIError, OperationalError

from server.errors import DiskFull

MIB = 1024 * 1024
TRY_AGAIN_S = 1.0
"""How long what cannot be written waits before it is tried again."""

Result = TypeVar("Result")

_log = structlog.get_logger("server")


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """The space of one folder's disk. Below `min_free_mib` nothing is accepted or started."""

    folder: Path
    min_free_mib: int

    def problem(self) -> str | None:
        """What is wrong, as a sentence; None if there is room."""
        free_mib = shutil.disk_usage(self.folder).free // MIB
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


@contextmanager
def disk_full_errors() -> Iterator[None]:
    """Raise DiskFull for the errors by which files and the database say that the disk is full."""
    try:
        yield
    except (OSError, DBAPIError) as error:
        if _is_full(error):
            raise DiskFull("The server's disk is full. Try again when there is room.") from error
        raise


def _is_full(error: OSError | DBAPIError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


async def retry_until_written(what: str, write: Callable[[], Result]) -> Result:
    """Write to the tables in a thread; again and again, while they cannot be written."""
    is_told = False
    while True:
        try:
            return await asyncio.to_thread(write)
        except (DiskFull, OperationalError) as error:
            if not is_told:
                reason = str(error) if isinstance(error, DiskFull) else str(error.orig)
                _log.error("The tables cannot be written; it is tried again", what=what, why=reason)
                is_told = True
        await asyncio.sleep(TRY_AGAIN_S)
