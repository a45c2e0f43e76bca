"""Files on the local disk: prepared images, uploads, videos.

A file appears whole or not at all: it is written under another name, checked, flushed to the disk
and renamed. Its path is made of its id, never of anything that a caller sent. Rows are not here:
a file has its name before its row is committed, and a video or an upload goes before its row, so of
these a crash leaves without a row at most those that were on their way in.
"""

import contextlib
import hashlib
import math
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from server.part_file import PartFile, sync_folder

MoveIntoPlace = Callable[[], None]
"""Gives written files their names. It is called within the transaction that adds their rows."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class FileStore:
    """The files in the folder `root`. Every method blocks on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.root.mkdir(parents=True, exist_ok=True)

    def clear_parts(self, before: float = math.inf) -> None:
        """Remove what was being written when the last server on this folder ended.

        Of other servers that write here, what was last written `before` is over.
        """
        for part in self.root.glob("*/*.part"):
            # Another server may give it its name meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if self._is_at(part.with_suffix("")) and part.stat().st_mtime < before:
                    part.unlink()

    def path(self, artifact_id: str) -> Path:
        """Where the file is, or would be. An id that this server did not make is a bug."""
        assert _ID.fullmatch(artifact_id), f"{artifact_id!r} is not an artefact's id"
        folder = hashlib.sha256(artifact_id.encode()).hexdigest()[:2]
        return self.root / folder / artifact_id

    def read(self, artifact_id: str) -> bytes:
        return self.path(artifact_id).read_bytes()

    def open(self, artifact_id: str) -> IO[bytes]:
        """The file, to be read piece by piece."""
        return self.path(artifact_id).open("rb")

    def ids(self) -> Iterator[str]:
        """Every file that is there. What is not where this store would put it is no file of it."""
        return (file.name for file in self.root.glob("*/*") if self._is_at(file))

    def receive(self) -> "IncomingFile":
        """Begin a file whose bytes come in pieces."""
        return IncomingFile(self)

    def scratch(self) -> IO[bytes]:
        """A file without a name, which is gone when it is closed, or its process has ended."""
        return tempfile.TemporaryFile(dir=self.root)

    def remove(self, *artifact_ids: str) -> None:
        """Delete the files that are there, which nobody may read any more.

        Raises:
            OSError: the last that could not be deleted. The others are gone.
        """
        _, error = self.try_remove(artifact_ids)
        if error is not None:
            raise error

    def try_remove(self, artifact_ids: Iterable[str]) -> tuple[list[str], OSError | None]:
        """Delete the files that are there; those that are gone now, and the last error, if any."""
        gone, last = [], None
        for artifact_id in artifact_ids:
            try:
                self.path(artifact_id).unlink(missing_ok=True)
            except OSError as error:
                last = error
            else:
                gone.append(artifact_id)
        return gone, last

    def move(self, artifact_id: str, other: "FileStore") -> None:
        """Give a file to another store, on the same disk."""
        target = other.path(artifact_id)
        target.parent.mkdir(exist_ok=True)
        self.path(artifact_id).replace(target)

    def _is_at(self, file: Path) -> bool:
        return bool(_ID.fullmatch(file.name)) and self.path(file.name) == file


class IncomingFile(PartFile):
    """A file on its way in. Its `id` is free, and such that nobody can guess it."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        # 16 random bytes: to know the URL of a file is to have the right to read it.
        self.id = secrets.token_hex(16)
        part = store.path(self.id).with_suffix(".part")
        part.parent.mkdir(exist_ok=True)
        super().__init__(part)

    def keep_as(self, artifact_id: str) -> None:
        """Bring the bytes to the disk and give the file its name."""
        final = self._store.path(artifact_id)
        self.flush()
        final.parent.mkdir(exist_ok=True)
        self.move_to(final)
        sync_folder(final.parent.parent)
