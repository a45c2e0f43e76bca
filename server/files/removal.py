"""How the files of videos and uploads go when their time is over: the file first, its row last.

The row says before that nobody may read the file. A removal that is cut short leaves rows for the
next one, and no file that the next start does not know.
"""

from collections.abc import Collection

from sqlalchemy import Connection, Select, delete, update

from server.db import tables
from server.db.database import Database
from server.files.store import FileStore

OVER = 0.0
"""The end of what is not served from now on, whatever becomes of the clock."""

_files = tables.artifacts


def end_files(db: Connection, which: Select[str]) -> list[str]:
    """Let the time of these files be over; their ids."""
    ended = update(_files).where(_files.c.id.in_(which)).values(expires_at=OVER)
    return list(db.execute(ended.returning(_files.c.id)).scalars())


def remove_files(database: Database, files: FileStore, ids: Collection[str]) -> None:
    """Remove files whose time is over by their rows, and the rows: no more than one batch.

    Raises:
        OSError, Shortage: the last that could not be removed. Its row stays; others are gone.
    """
    gone, error = files.try_remove(ids)
    with database.write() as db:
        db.execute(delete(_files).where(_files.c.id.in_(gone)))
    if error is not None:
        raise error
