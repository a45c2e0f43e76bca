"""The statements of uploads: those under way, their parts, and the files that they became.

Synchronous, like `server.jobs.store`. A file is put in its place within the transaction that writes
its row: the second caller of the same upload finds it closed before touching the file.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    cast,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from server.db import tables
from server.db.database import Database
from server.db.rows import row_of_artifact
from server.errors import UnknownUpload, UploadClosed, UploadTooLarge
from server.files.removal import end_files, remove_files
from server.files.store import FileStore, MoveIntoPlace
from server.models import StoredArtifact

UPLOAD_LIFETIME_S = 3600
"""How long the URL of an upload can be used."""

BATCH = 500
"""Files and uploads forgotten in one transaction, which others wait for."""

KEPT_AFTERWARDS_S = 3600
"""How long an upload that is over is known: one that began in time may be coming still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload:
    """What is agreed before a file comes. `lifetime_s` counts from its arrival."""

    key_id: str | None
    file_name: str
    content_type: str
    lifetime_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload(NewUpload):
    """An upload under way, or over."""

    id: str
    file_id: str
    max_size: int
    in_parts: bool
    expires_at: float
    closed_at: float | None = None

    @property
    def is_closed(self) -> bool:
        return self.closed_at is not None


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is here, in a file of its own."""

    number: int
    file_id: str
    size: int
    sha256: str


class UploadStore:
    """The uploads of one data folder; `server.files.quota` says how large they may become.

    `keep_s` is how long a file is kept that may have a longer lifetime; None is for ever.
    """

    def __init__(
        self,
        database: Database,
        *,
        keep_s: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keep_s = keep_s
        self._now = now

    def begin(self, new: NewUpload, *, in_parts: bool, max_size: int) -> Upload:
        """Commit an upload that comes later."""
        upload = Upload(
            # 32 random bytes: to know the id is to have the right to upload.
            id=secrets.token_urlsafe(32),
            file_id=secrets.token_hex(16),
            key_id=new.key_id,
            file_name=new.file_name,
            content_type=new.content_type,
            lifetime_s=new.lifetime_s,
            max_size=max_size,
            in_parts=in_parts,
            expires_at=self._now() + UPLOAD_LIFETIME_S,
        )
        with self._database.write() as db:
            db.execute(insert(tables.uploads).values(asdict(upload)))
        return upload

    def upload(self, upload_id: str) -> Upload:
        """Read one upload, which may be closed.

        Raises:
            UnknownUpload: there is none of that id.
            UploadClosed: its time is over.
        """
        with self._database.read() as db:
            upload = _read(db, upload_id)
        if not upload.is_closed and upload.expires_at <= self._now():
            raise UploadClosed
        return upload

    def is_closed(self, upload_id: str) -> bool:
        """Whether the file of an upload is here."""
        with self._database.read() as db:
            return _read(db, upload_id).is_closed

    def parts(self, upload_id: str) -> list[Part]:
        """The parts that are here."""
        parts = tables.upload_parts.c
        query = select(parts.number, parts.file_id, parts.size, parts.sha256)
        with self._database.read() as db:
            rows = db.execute(query.where(parts.upload_id == upload_id).order_by(parts.number))
            return [Part(*row) for row in rows]

    def add_file(self, file: StoredArtifact, new: NewUpload, *, place: MoveIntoPlace) -> None:
        """Commit a file that needs no upload before it."""
        with self._database.write() as db:
            self._add_file(db, file, new, place)

    def finish(self, upload: Upload, file: StoredArtifact, *, place: MoveIntoPlace) -> list[str]:
        """Commit the file of an upload and close that; its parts are forgotten.

        Returns the files of all its parts, those that came last as well.
        """
        with self._database.write() as db:
            _check_open(db, upload.id)
            parts = _forget_parts(db, [upload.id])
            self._add_file(db, file, upload, place)
            closed = update(tables.uploads).where(tables.uploads.c.id == upload.id)
            db.execute(closed.values(closed_at=self._now()))
            return parts

    def add_part(self, upload: Upload, part: Part, *, place: MoveIntoPlace) -> str | None:
        """Commit a part; the file of the one that it replaces, if there is one.

        Raises:
            UploadClosed: the upload is over.
            UploadTooLarge: the upload has more bytes than were agreed.
        """
        parts = tables.upload_parts
        with self._database.write() as db:
            _check_open(db, upload.id)
            same = (parts.c.upload_id == upload.id) & (parts.c.number == part.number)
            replaced = db.execute(
                delete(parts).where(same).returning(parts.c.file_id)
            ).scalar_one_or_none()
            size = cast(func.sum(parts.c.size), BigInteger)
            here = select(size).where(parts.c.upload_id == upload.id)
            if (db.execute(here).scalar_one() or 0) + part.size > upload.max_size:
                raise UploadTooLarge(upload.max_size)
            place()
            db.execute(
                insert(parts).values(
                    upload_id=upload.id,
                    number=part.number,
                    file_id=part.file_id,
                    size=part.size,
                    sha256=part.sha256,
                )
            )
            return replaced

    def expire(self, files: FileStore) -> None:
        """Forget uploads, and remove uploaded files, whose time is over."""
        now = self._now()
        while self._has_any(_ended(now)):
            with self._database.write() as db:
                ids = list(db.execute(_ended(now)).scalars())
                parts = _forget_parts(db, ids)
                db.execute(delete(tables.uploads).where(tables.uploads.c.id.in_(ids)))
            files.remove(*parts)
        while self._has_any(self._over(now)):
            with self._database.write() as db:
                over = end_files(db, self._over(now))
            remove_files(self._database, files, over)

    def _has_any(self, query: Select[str]) -> bool:
        """Whether there is anything to remove. There seldom is, and looking holds up no writer."""
        with self._database.read() as db:
            return db.execute(query.limit(1)).first() is not None

    def _over(self, now: float) -> Select[str]:
        """Some of the files whose time is over."""
        files = tables.artifacts.c
        over = files.expires_at <= now
        if self._keep_s is not None:
            over = or_(over, files.created_at <= now - self._keep_s)
        return select(files.id).where(files.kind == "upload", over).limit(BATCH)

    def _add_file(
        self, db: Connection, file: StoredArtifact, new: NewUpload, place: MoveIntoPlace
    ) -> None:
        place()
        now = self._now()
        expires_at = None if new.lifetime_s is None else now + new.lifetime_s
        row = row_of_artifact(
            file, job_id=None, key_id=new.key_id, created_at=now, expires_at=expires_at
        )
        db.execute(insert(tables.artifacts).values(row))


def _read(db: Connection, upload_id: str, *, to_change: bool = False) -> Upload:
    query = select(*tables.uploads.c).where(tables.uploads.c.id == upload_id)
    if to_change:
        query = query.with_for_update(key_share=True)
    row = db.execute(query).one_or_none()
    if row is None:
        raise UnknownUpload
    return Upload(**row._mapping)


def _ended(now: float) -> Select[str]:
    """Some of the uploads that need not be known any longer."""
    uploads = tables.uploads.c
    return select(uploads.id).where(uploads.expires_at <= now - KEPT_AFTERWARDS_S).limit(BATCH)


def _check_open(db: Connection, upload_id: str) -> None:
    if _read(db, upload_id, to_change=True).is_closed:
        raise UploadClosed


def _forget_parts(db: Connection, upload_ids: Sequence[str]) -> list[str]:
    parts = tables.upload_parts
    of_uploads = delete(parts).where(parts.c.upload_id.in_(upload_ids))
    return list(db.execute(of_uploads.returning(parts.c.file_id)).scalars())
