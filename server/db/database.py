"""The database that the stores share: SQLite in the data folder, or PostgreSQL.

The statements are the same for both. What differs is in this package.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr
from sqlalchemy import Connection

from server.config.errors import SettingsError
from server.config.settings import Settings
from server.data_folder import database_in
from server.db.sqlite import Sqlite

if TYPE_CHECKING:
    from server.db.postgres import Postgres


class Database:
    """An open database, shared by the stores that have the statements. Every use blocks."""

    def __init__(self, where: Path | SecretStr) -> None:
        """Open the file of SQLite, or the database of PostgreSQL; made or upgraded if need be.

        Raises:
            DatabaseDamaged: the file cannot be read.
            UnknownSchema: it is of a later release.
            SettingsError: it is PostgreSQL's, and psycopg is not installed.
            Shortage: PostgreSQL is away, or does not let us in.
        """
        self._backend = Sqlite(where) if isinstance(where, Path) else _postgres(where)
        self.is_shared = self._backend.is_shared
        """Whether other servers may use it at the same time."""

    @classmethod
    def of(cls, settings: Settings) -> "Database":
        """The database that the settings name, or that of their data folder."""
        return cls(settings.database or database_in(settings.data))

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that sees the tables as they are now."""
        with self._backend.read() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction; committed at the end, or not at all.

        On SQLite no other writer overlaps it. On PostgreSQL it reads the rows by which it decides
        FOR UPDATE, which SQLite leaves out, or it calls `take_turn`.
        """
        with self._backend.write() as connection:
            yield connection

    def take_turn(self, db: Connection, what: str) -> None:
        """Let no other transaction that takes the same turn overlap this one, from here on."""
        self._backend.take_turn(db, what)

    def notify(self, message: str) -> None:
        """Send a hint to the other servers, if there are any; it may be lost."""
        self._backend.notify(message)

    @property
    def is_damaged(self) -> bool:
        """Whether a part of the file could not be read since it was opened."""
        return self._backend.is_damaged

    def check(self) -> None:
        """Read the whole file, and see that it is not damaged.

        Raises:
            DatabaseDamaged: it is.
        """
        self._backend.check()

    def close(self) -> None:
        self._backend.close()


def _postgres(url: SecretStr) -> "Postgres":
    # It takes a while to import.
    from server.db.postgres import Postgres

    try:
        return Postgres(url)
    except ModuleNotFoundError as error:
        raise SettingsError(
            "COSMOS_DATABASE needs the extra `postgres`: pip install 'cosmos-serve[postgres]'"
        ) from error
