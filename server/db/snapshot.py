"""A copy of a database that others go on using: the tables as they are at one moment."""

import sqlite3
from contextlib import closing
from pathlib import Path

from server.db import tables
from server.disk import sqlite_code
from server.errors import DatabaseDamaged

# The columns have been there since the first release. Prepared pictures come first: they are
# removed some minutes after their jobs have ended.
_FILES = """
    SELECT id, size FROM (
        SELECT id, size, kind IN ('image', 'pixels') AS is_short_lived FROM artifacts
        UNION ALL SELECT file_id, size, FALSE FROM upload_parts
    ) ORDER BY is_short_lived DESC
"""


def copy_database(source: Path, target: Path) -> dict[str, int]:
    """Write the tables of `source`, as they are now, to `target`, which they replace.

    Users of `source` can go on writing. Nothing is upgraded: the copy is of the same release.
    The sessions of browsers are left out, so that none comes back that has ended since.

    Returns:
        The ids of the files that the rows name, with their sizes in bytes.

    Raises:
        DatabaseDamaged: a part of it cannot be read.
        sqlite3.Error: it cannot be opened, or there is no room for the copy.
    """
    target.unlink(missing_ok=True)
    address = f"{source.absolute().as_uri()}?mode=rw"
    try:
        with (
            closing(sqlite3.connect(address, uri=True)) as original,
            closing(sqlite3.connect(target)) as copy,
        ):
            original.execute(f"PRAGMA busy_timeout={tables.BUSY_TIMEOUT_MS}")
            # All pages in one step, which is one reading transaction.
            original.backup(copy)
            if copy.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise DatabaseDamaged
            _end_sessions(copy)
            # In one file, which can be read from a folder that is mounted read-only.
            copy.execute("PRAGMA journal_mode=DELETE")
            return dict(copy.execute(_FILES))
    except sqlite3.DatabaseError as error:
        if sqlite_code(error) in tables.DAMAGED:
            raise DatabaseDamaged from error
        raise


def _end_sessions(copy: sqlite3.Connection) -> None:
    # A database of an earlier release has none.
    found = copy.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'sessions'")
    if found.fetchone() is not None:
        copy.execute("DELETE FROM sessions")
        copy.commit()
