"""What operators read and remove of uploaded files. Every function blocks."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, select

from server.db import tables
from server.db.database import Database
from server.files.removal import end_files, remove_files
from server.files.store import FileStore

BATCH = 500
"""Files removed in one transaction, which others wait for."""

_files = tables.artifacts.c


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedFile:
    """A file that a caller sent. Times are Unix seconds, `size` is in bytes."""

    id: str
    name: str
    key_id: str | None
    content_type: str
    size: int
    created_at: float
    expires_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """Which files: all that these are true of.

    `ids` are their ids, `before` is a time by which they came, `key_id` the id of their key.
    """

    ids: Collection[str] | None = None
    before: float | None = None
    key_id: str | None = None

    def condition(self) -> ColumnElement[bool]:
        """Which rows of `artifacts` they are."""
        which = _files.kind == "upload"
        if self.ids is not None:
            which = and_(which, _files.id.in_(self.ids))
        if self.before is not None:
            which = and_(which, _files.created_at <= self.before)
        if self.key_id is not None:
            which = and_(which, _files.key_id == self.key_id)
        return which


def uploaded(
    database: Database, which: Uploaded, limit: int | None = None
) -> tuple[list[UploadedFile], int]:
    """The files that came last, the latest first, and how many there are, without the limit."""
    columns = [_files[name] for name in UploadedFile.__dataclass_fields__]
    query = select(*columns).where(which.condition()).order_by(_files.created_at.desc(), _files.id)
    count = select(func.count()).select_from(tables.artifacts).where(which.condition())
    with database.read() as db:
        rows = db.execute(query.limit(limit))
        return [UploadedFile(**row._mapping) for row in rows], db.execute(count).scalar_one()


def purge_uploads(database: Database, files: FileStore, which: Uploaded) -> list[str]:
    """Remove files; return their ids."""
    batch = select(_files.id).where(which.condition()).limit(BATCH)
    purged: list[str] = []
    while True:
        with database.write() as db:
            gone = end_files(db, batch)
        remove_files(database, files, gone)
        if not gone:
            return purged
        purged += gone
