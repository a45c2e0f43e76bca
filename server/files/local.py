"""Files in a folder of the local disk: each is written under another name, checked, flushed to the
disk and renamed."""

import contextlib
import hashlib
import math
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from server.disk import MIB
from server.files.content_types import UNKNOWN
from server.files.store import check_id, is_id, new_id
from server.part_file import PartFile, sync_folder


class LocalFiles:
    """The files in the folder `root`. Every method blocks on the disk."""

    problem: str | None = None

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
        """Where the file is, or would be."""
        check_id(artifact_id)
        folder = hashlib.sha256(artifact_id.encode()).hexdigest()[:2]
        return self.root / folder / artifact_id

    def read(self, artifact_id: str) -> bytes:
        return self.path(artifact_id).read_bytes()

    def pieces(self, artifact_id: str) -> Iterator[bytes]:
        with self.open(artifact_id) as file:
            while piece := file.read(MIB):
                yield piece

    def open(self, artifact_id: str) -> IO[bytes]:
        return self.path(artifact_id).open("rb")

    def ids(self) -> Iterator[str]:
        """Every file that is there. What is not where this store would put it is no file of it."""
        return (file.name for file in self.root.glob("*/*") if self._is_at(file))

    def receive(self, prefix: str = "", *, content_type: str = UNKNOWN) -> "IncomingLocalFile":
        artifact_id = new_id(prefix)
        return IncomingLocalFile(self, artifact_id, content_type, written_as=artifact_id)

    def receive_as(self, artifact_id: str, *, content_type: str = UNKNOWN) -> "IncomingLocalFile":
        # Others may bring a file of the same id.
        return IncomingLocalFile(self, artifact_id, content_type, written_as=new_id())

    def scratch(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self.root)

    def remove(self, *artifact_ids: str) -> None:
        _, error = self.try_remove(artifact_ids)
        if error is not None:
            raise error

    def try_remove(self, artifact_ids: Iterable[str]) -> tuple[list[str], Exception | None]:
        gone, last = [], None
        for artifact_id in artifact_ids:
            try:
                self.path(artifact_id).unlink(missing_ok=True)
            except OSError as error:
                last = error
            else:
                gone.append(artifact_id)
        return gone, last

    def move(self, artifact_id: str, other: "LocalFiles") -> None:
        """Give a file to another store, on the same disk."""
        target = other.path(artifact_id)
        target.parent.mkdir(exist_ok=True)
        self.path(artifact_id).replace(target)

    def _is_at(self, file: Path) -> bool:
        return is_id(file.name) and self.path(file.name) == file


class IncomingLocalFile(PartFile):
    """A file on its way in."""

    def __init__(
        self, store: LocalFiles, artifact_id: str, content_type: str, *, written_as: str
    ) -> None:
        self.id = artifact_id
        self.content_type = content_type
        self._final = store.path(artifact_id)
        part = store.path(written_as).with_suffix(".part")
        part.parent.mkdir(exist_ok=True)
        super().__init__(part)

    def keep(self) -> None:
        """Bring the bytes to the disk and give the file its name."""
        self.flush()
        self._final.parent.mkdir(exist_ok=True)
        self.move_to(self._final)
        sync_folder(self._final.parent.parent)
