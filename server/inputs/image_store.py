"""The pictures that jobs are made from: kept once however often they come, and not for longer
than they are wanted.

There are two kinds, what callers sent as data URIs and the prepared pixels. The id of either is
made of its content, so several jobs may share one. A picture to which no unfinished job refers is
given ten minutes, and then its row goes, and its file after it.

A file is kept before the row of the job that needs it is committed. Meanwhile it is in somebody's
hand, and no file that is in a hand is removed. This holds within one process, which the lock on the
data folder makes the only one that keeps pictures or removes them.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, bindparam, delete, select, update

from pipeline.spec import Pixels
from server.db import tables
from server.db.database import Database
from server.files.store import ArtifactStore, shared_artifact
from server.models import JobStatus, StoredArtifact
from server.tasks import log_errors

UNWANTED_LIFETIME_S = 600.0
"""How long a picture stays once no unfinished job refers to it: people send one several times."""

SWEEP_EVERY_S = 30.0

_KINDS = ("image", "pixels")
_BYTES = "application/octet-stream"

_artifacts = tables.artifacts.c


class ImageStore:
    """The pictures of one server. Every method blocks but for `run`, and any thread may call."""

    def __init__(
        self, database: Database, files: ArtifactStore, *, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._files = files
        self._now = now
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._let_go: set[str] = set()
        """Those that were in hands lately: a request that was refused leaves one with no row."""

    async def run(self) -> None:
        """Sweep from time to time until cancelled."""
        while True:
            await log_errors("removing pictures", asyncio.to_thread(self.sweep))
            await asyncio.sleep(SWEEP_EVERY_S)

    @contextmanager
    def in_hand(self) -> Iterator["Lease"]:
        """Keeps pictures; by the end of the block, whatever needs them is to be committed."""
        hand = Lease(self)
        try:
            yield hand
        finally:
            with self._lock:
                self._held -= hand.held
                self._let_go |= hand.held.keys()

    def keep(self, artifact: StoredArtifact, data: bytes, held: Counter[str]) -> None:
        """Have the file of a picture, which from before it is looked for counts as held."""
        with self._lock:
            self._held[artifact.id] += 1
            held[artifact.id] += 1
        self._files.keep_shared(artifact, data)

    def sweep(self) -> None:
        """Begin the time of the pictures that nobody wants any more; remove those of which it is
        over."""
        now = self._now()
        with self._lock:
            let_go = set(self._let_go)
        with self._database.read() as db:
            unwanted, over = _swept(db, now)
        if unwanted or over:
            with self._database.write() as db:
                unwanted, over = _swept(db, now)
                _expire(db, unwanted, now + UNWANTED_LIFETIME_S)
                _forget(db, over)
        for artifact_id in over | let_go:
            self._remove_if_unknown(artifact_id)

    def _remove_if_unknown(self, artifact_id: str) -> None:
        """Remove a file that has no row, unless somebody is about to write one.

        Nobody takes the picture in hand meanwhile; whoever had it has committed the row, or never
        will. So a file that nobody holds, and that has no row, is needed by nobody.
        """
        with self._lock:
            if artifact_id in self._held:
                return
            self._let_go.discard(artifact_id)
            with self._database.read() as db:
                row = select(_artifacts.id).where(_artifacts.id == artifact_id)
                is_known = db.execute(row).first() is not None
            if not is_known:
                self._files.remove(artifact_id)


class Lease:
    """Holds the pictures that it keeps."""

    def __init__(self, pictures: ImageStore) -> None:
        self._pictures = pictures
        self.held: Counter[str] = Counter()

    def keep_sent(self, data: bytes) -> StoredArtifact:
        """Keep what a caller sent, which may be no picture at all."""
        artifact = shared_artifact("image", data, content_type=_BYTES)
        self._pictures.keep(artifact, data, self.held)
        return artifact

    def keep_pixels(self, pixels: Pixels) -> StoredArtifact:
        """Keep a prepared picture."""
        size = {"width": pixels.width, "height": pixels.height}
        artifact = shared_artifact("pixels", pixels.rgb, content_type=_BYTES, **size)
        self._pictures.keep(artifact, pixels.rgb, self.held)
        return artifact


def _swept(db: Connection, now: float) -> tuple[set[str], set[str]]:
    """The pictures whose time begins, for no unfinished job wants them, and those that had it."""
    wanted = _wanted(db)
    query = select(_artifacts.id, _artifacts.expires_at).where(_artifacts.kind.in_(_KINDS))
    kept = [(id_, expires_at) for id_, expires_at in db.execute(query) if id_ not in wanted]
    unwanted = {id_ for id_, expires_at in kept if expires_at is None}
    return unwanted, {id_ for id_, at in kept if at is not None and at <= now}


def _wanted(db: Connection) -> set[str]:
    """The pictures to which unfinished jobs refer."""
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
        expire = update(tables.artifacts).where(_artifacts.id == bindparam("picture"))
        db.execute(expire.values(expires_at=expires_at), [{"picture": id_} for id_ in ids])


def _forget(db: Connection, ids: Collection[str]) -> None:
    if ids:
        forget = delete(tables.artifacts).where(_artifacts.id == bindparam("picture"))
        db.execute(forget, [{"picture": id_} for id_ in ids])
