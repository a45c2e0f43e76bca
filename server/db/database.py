"""The one database of a data folder: readers go on while writers take turns."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from server.db import tables
from server.db.upgrade import prepare
from server.disk import disk_full_errors


class Database:
    """An open database, shared by the stores that have the statements. Every use blocks."""

    def __init__(self, path: Path) -> None:
        """Open the file, made or upgraded if need be."""
        self._engine = tables.open_database(path)
        with disk_full_errors():
            prepare(self._engine)
        self._writing = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that sees the tables as they are now."""
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that no other writer overlaps; committed at the end, or not at all."""
        immediate = self._engine.execution_options(**{tables.BEGIN_OPTION: "IMMEDIATE"})
        # SQLite makes writers of one process poll for their turn; the lock makes them queue.
        with self._writing, disk_full_errors(), immediate.begin() as connection:
            yield connection

    def close(self) -> None:
        self._engine.dispose()
