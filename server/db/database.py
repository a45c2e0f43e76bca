"""The one database of a data folder: readers go on while writers take turns."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from server.db import tables
from server.db.upgrade import prepare
from server.disk import TABLES_LOCKED, shortage_of, sqlite_code
from server.errors import DatabaseDamaged, Shortage

RESERVE_BYTES = 256 * 1024
"""Several times what the index of an empty write-ahead log takes."""


class Database:
    """An open database, shared by the stores that have the statements. Every use blocks."""

    def __init__(self, path: Path) -> None:
        """Open the file, made or upgraded if need be.

        Raises:
            DatabaseDamaged: it cannot be read.
            UnknownSchema: it is of a later release.
        """
        self._engine = tables.open_database(path)
        self._writing = threading.Lock()
        self._found_locked_at = 0.0
        self.is_damaged = False
        """Whether a part of the file could not be read since it was opened."""
        with self._damage_noted():
            self._prepare(path.with_name(f"{path.name}-reserve"))

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that sees the tables as they are now."""
        with self._damage_noted(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that no other writer overlaps; committed at the end, or not at all.

        While another process holds the tables it fails after `BUSY_TIMEOUT_MS`.
        """
        immediate = self._engine.execution_options(**{tables.BEGIN_OPTION: "IMMEDIATE"})
        asked_at = time.monotonic()
        # SQLite makes writers of one process poll for their turn; the lock makes them queue.
        with self._writing, self._damage_noted():
            if self._found_locked_at > asked_at:
                # One has waited for all that queued meanwhile: they would wait as long each.
                raise Shortage(TABLES_LOCKED)
            with immediate.begin() as connection:
                yield connection

    def check(self) -> None:
        """Read the whole file, and see that it is not damaged. It takes seconds for a gigabyte.

        Raises:
            DatabaseDamaged: it is.
        """
        with self.read() as db:
            found = db.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        if found != "ok":
            self.is_damaged = True
            raise DatabaseDamaged

    def close(self) -> None:
        self._engine.dispose()

    def _prepare(self, reserve: Path) -> None:
        """Open the tables, also where the disk is full: what is here can be read then.

        SQLite keeps files beside an open database, and removes them as it is closed. To make them
        again there is a reserve, which is given up for them.
        """
        try:
            prepare(self._engine)
        except DatabaseError as error:
            if shortage_of(error) is None or not reserve.exists():
                raise
            reserve.unlink()
            prepare(self._engine)
        with suppress(OSError):
            handle = os.open(reserve, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(handle, 0, RESERVE_BYTES)
            finally:
                os.close(handle)

    @contextmanager
    def _damage_noted(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            code = sqlite_code(error)
            if code == sqlite3.SQLITE_BUSY:
                self._found_locked_at = time.monotonic()
            if code in tables.DAMAGED:
                self.is_damaged = True
                raise DatabaseDamaged from error
            raise
