"""The images that jobs are made from: kept once however often they come, and not for longer than
they are needed.

There are two kinds, what callers sent as data URIs and the prepared pixels. The id of either is
made of its content, so several jobs may share one. An image to which no unfinished job refers is
given ten minutes, and then its row is removed, and its file after it.

In a folder, files are placed, and removed, within a write transaction that has the turn of images:
no other adds or removes the row of the same image meanwhile, so the file of a committed row is
there. In a bucket, where that would have others wait for the network, each has an id of its own
instead, and is there before its transaction: no other job shares it.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace

from sqlalchemy import Connection, bindparam, delete, select, update

from pipeline.spec import Pixels
from server.db import tables
from server.db.database import Database
from server.files.local import LocalFiles
from server.files.store import FileStore, IncomingFile
from server.models import JobStatus, StoredArtifact

UNWANTED_LIFETIME_S = 600.0
"""How long an image stays once no unfinished job refers to it: people send one several times."""

_KINDS = ("image", "pixels")

_artifacts = tables.artifacts.c


class ImageStore:
    """The images of one server. Every method blocks, and any thread may call."""

    def __init__(
        self, database: Database, files: FileStore, *, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._files = files
        self._now = now

    def incoming(self) -> "IncomingImages":
        return IncomingImages(self._files)

    def sweep(self) -> None:
        """Begin the time of the images that are not needed any more; remove those of which it is
        over."""
        now = self._now()
        with self._database.read() as db:
            unwanted, over = _swept(db, now)
        if unwanted or over:
            with self._database.write() as db:
                self._database.take_turn(db, "images")
                unwanted, over = _swept(db, now)
                _expire(db, unwanted, now + UNWANTED_LIFETIME_S)
                _forget(db, over)
        if over:
            self._remove_files(over)

    def _remove_files(self, ids: Collection[str]) -> None:
        """Remove the files of rows that were removed, unless such an image has come again since."""
        if not isinstance(self._files, LocalFiles):
            self._files.remove(*ids)
            return
        known = select(_artifacts.id).where(_artifacts.kind.in_(_KINDS))
        with self._database.write() as db:
            self._database.take_turn(db, "images")
            self._files.remove(*set(ids).difference(db.execute(known).scalars()))


class IncomingImages(ExitStack):
    """Images that are written before the transaction that adds their rows, and placed within it.

    A context manager: what was not placed by the end of the block is given up.
    """

    def __init__(self, files: FileStore) -> None:
        super().__init__()
        self._files = files
        self._images: list[tuple[str, bytes, IncomingFile | None]] = []

    def add_sent(self, data: bytes) -> StoredArtifact:
        """Write what a caller sent, which may be no image at all."""
        return self._add(_artifact("image", data), data)

    def add_pixels(self, pictures: Sequence[Pixels]) -> StoredArtifact:
        """Write a prepared medium: its pictures, which have one size, one after the other."""
        data = b"".join(picture.rgb for picture in pictures)
        width, height = pictures[0].width, pictures[0].height
        artifact = _artifact("pixels", data, width=width, height=height)
        return self._add(replace(artifact, frames=len(pictures)), data)

    def place(self) -> None:
        """Give the files their names, within the transaction that adds their rows, and after that.

        Of several that bring the same image the first places its file.
        """
        for image_id, data, part in self._images:
            if not self._has(image_id):
                (part or self._written(self._files.receive_as(image_id), data)).keep()

    def _add(self, artifact: StoredArtifact, data: bytes) -> StoredArtifact:
        part = None
        if not isinstance(self._files, LocalFiles):
            part = self._written(self._files.receive(f"{artifact.kind}-"), data)
            artifact = replace(artifact, id=part.id)
        # One that is here need not be written; if it is removed until `place`, it is written there.
        elif not self._has(artifact.id):
            part = self._written(self._files.receive_as(artifact.id), data)
        self._images.append((artifact.id, data, part))
        return artifact

    def _has(self, image_id: str) -> bool:
        return isinstance(self._files, LocalFiles) and self._files.path(image_id).exists()

    def _written(self, incoming: IncomingFile, data: bytes) -> IncomingFile:
        part = self.enter_context(incoming)
        part.write(data)
        part.flush()
        return part


def _artifact(
    kind: str, data: bytes, *, width: int | None = None, height: int | None = None
) -> StoredArtifact:
    """An image, whose id is made of its kind, size and SHA-256."""
    digest = hashlib.sha256(data).hexdigest()
    size = "" if width is None else f"{width}x{height}-"
    return StoredArtifact(
        id=f"{kind}-{size}{digest}",
        kind=kind,
        name=kind,
        content_type="application/octet-stream",
        size=len(data),
        sha256=digest,
        width=width,
        height=height,
    )


def _swept(db: Connection, now: float) -> tuple[set[str], set[str]]:
    """The images whose time begins, since no unfinished job needs them, and those that had it."""
    wanted = _wanted(db)
    query = select(_artifacts.id, _artifacts.expires_at).where(_artifacts.kind.in_(_KINDS))
    kept = [(id_, expires_at) for id_, expires_at in db.execute(query) if id_ not in wanted]
    unwanted = {id_ for id_, expires_at in kept if expires_at is None}
    # A time that is further away than any can be is of a clock that was put back.
    soon = now + UNWANTED_LIFETIME_S
    return unwanted, {id_ for id_, at in kept if at is not None and not now < at <= soon}


def _wanted(db: Connection) -> set[str]:
    """The images to which unfinished jobs refer."""
    jobs = tables.jobs.c
    unfinished = [JobStatus.IN_QUEUE.value, JobStatus.IN_PROGRESS.value]
    query = select(jobs.input, jobs.input_refs).where(jobs.status.in_(unfinished))
    wanted: set[str] = set()
    for given, prepared in db.execute(query):
        sources = given.get("media", {}).values()
        wanted.update(source["artifact"] for source in sources if "artifact" in source)
        wanted.update((prepared or {}).values())
    return wanted


def _expire(db: Connection, ids: Collection[str], expires_at: float) -> None:
    # One at a time: a statement has room for so many parameters only.
    if ids:
        expire = update(tables.artifacts).where(_artifacts.id == bindparam("image"))
        db.execute(expire.values(expires_at=expires_at), [{"image": id_} for id_ in ids])


def _forget(db: Connection, ids: Collection[str]) -> None:
    if ids:
        forget = delete(tables.artifacts).where(_artifacts.id == bindparam("image"))
        db.execute(forget, [{"image": id_} for id_ in ids])
