"""Files on the local disk: prepared pictures, uploads, videos.

A file appears whole or not at all: it is written under another name, checked, flushed to the disk
and renamed. Its path is made of its id, never of anything that a caller sent. Rows are not here:
a file is kept first, and its row is written after.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from server.disk import disk_full_errors
from server.errors import DiskFull
from server.models import StoredArtifact
from server.workers.messages import Artifact

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class ArtifactMismatch(Exception):
    """What a worker sent is not the file that it described; the sentence says how."""


class ArtifactStore:
    """The folder of one server's files. Every method blocks on the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._root.mkdir(parents=True, exist_ok=True)

    def clear_parts(self) -> None:
        """Remove what was being written when the last server on this folder ended."""
        for part in self._root.glob("*/*.part"):
            part.unlink()

    def path(self, artifact_id: str) -> Path:
        """Where the file is, or would be. An id that is none of ours is our own bug."""
        assert _ID.fullmatch(artifact_id), f"{artifact_id!r} is not an artefact's id"
        folder = hashlib.sha256(artifact_id.encode()).hexdigest()[:2]
        return self._root / folder / artifact_id

    def read(self, artifact_id: str) -> bytes:
        return self.path(artifact_id).read_bytes()

    def keep_shared(self, artifact: StoredArtifact, data: bytes) -> None:
        """Keep a `shared_artifact`: once, however often it comes."""
        if not self.path(artifact.id).exists():
            incoming = self.receive()
            incoming.write(data)
            incoming.keep_as(artifact.id)

    def ids(self) -> Iterator[str]:
        """Every file that is there."""
        return (file.name for file in self._root.glob("*/*") if _ID.fullmatch(file.name))

    def receive(self) -> "IncomingFile":
        """Begin a file whose bytes come in pieces."""
        return IncomingFile(self)

    def remove(self, artifact_id: str) -> None:
        """Delete the file if it is there. Its row must be gone, or never have been."""
        self.path(artifact_id).unlink(missing_ok=True)


class IncomingFile:
    """A file on its way in. It ends by `keep`, `keep_as` or `discard`; after those two, `discard`
    does nothing."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        # 16 random bytes: whoever has the URL of a file may read it.
        self._id = secrets.token_hex(16)
        self._part = store.path(self._id).with_suffix(".part")
        with disk_full_errors():
            self._part.parent.mkdir(exist_ok=True)
            # Not buffered: what cannot be written is heard of here, and not when it is closed.
            self._file: BinaryIO = self._part.open("xb", buffering=0)
        self._hash = hashlib.sha256()
        self._size = 0

    @property
    def id(self) -> str:
        """Free to be the file's, and such that nobody can guess it."""
        return self._id

    @property
    def size(self) -> int:
        return self._size

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            DiskFull: there is no room for them. So do all that write here.
        """
        with self._writing():
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
        self._hash.update(data)
        self._size += len(data)

    def keep(self, described: Artifact, *, fps: float | None = None) -> StoredArtifact:
        """Publish the file under its new id.

        Raises:
            ArtifactMismatch: the bytes are not what the worker says it sent.
        """
        if (self._size, self.sha256) != (described.size, described.sha256):
            self.discard()
            raise ArtifactMismatch(
                f"The worker described a file of {described.size:,} bytes with the hash "
                f"{described.sha256[:12]}…, and sent {self._size:,} bytes with the hash "
                f"{self.sha256[:12]}…."
            )
        self.keep_as(self._id)
        return StoredArtifact(
            id=self._id,
            kind=described.kind,
            name=described.name,
            content_type=described.content_type,
            size=described.size,
            sha256=described.sha256,
            width=described.width,
            height=described.height,
            frames=described.frames,
            fps=fps,
        )

    def flush(self) -> None:
        """Bring the bytes to the disk, which takes its time; `keep_as` is quick afterwards."""
        with self._writing():
            os.fsync(self._file.fileno())

    def keep_as(self, artifact_id: str) -> None:
        """Flush the bytes to the disk and give the file its name."""
        self.flush()
        self._file.close()
        final = self._store.path(artifact_id)
        with self._writing():
            final.parent.mkdir(exist_ok=True)
            self._part.replace(final)
            _sync_folder(final.parent)
            _sync_folder(final.parent.parent)

    def discard(self) -> None:
        """Give the file up."""
        self._file.close()
        self._part.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Give the file up if it cannot be written: what is there of it takes up room."""
        try:
            with disk_full_errors():
                yield
        except (OSError, DiskFull):
            self.discard()
            raise


def shared_artifact(
    kind: str,
    data: bytes,
    *,
    content_type: str,
    width: int | None = None,
    height: int | None = None,
) -> StoredArtifact:
    """What a file is called whose id is made of its kind, size and SHA-256, and so is shared."""
    digest = hashlib.sha256(data).hexdigest()
    size = "" if width is None else f"{width}x{height}-"
    return StoredArtifact(
        id=f"{kind}-{size}{digest}",
        kind=kind,
        name=kind,
        content_type=content_type,
        size=len(data),
        sha256=digest,
        width=width,
        height=height,
    )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
