"""The database as a file of the data folder: readers go on while writers take turns."""

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


class Sqlite:
    """What `server.db.database` opens for a path."""

    is_shared = False

    def __init__(self, path: Path) -> None:
        self._engine = tables.open_database(path)
        self._writing = threading.Lock()
        self._found_locked_at = 0.0
        self.is_damaged = False
        with tables.closed_on_error(self._engine), self._damage_noted():
            self._prepare(path.with_name(f"{path.name}-reserve"))

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._damage_noted(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that no other writer overlaps.

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

    def take_turn(self, db: Connection, what: str) -> None:
        """Every write is one that no other overlaps."""

    def notify(self, message: str) -> None:
        """There is no other server."""

    def check(self) -> None:
        """Read the whole file. It takes seconds for a gigabyte."""
        with self.read() as db:
            found = db.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        if found != "ok":
            self.is_damaged = True
            raise DatabaseDamaged

    def close(self) -> None:
        tables.close(self._engine)

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
