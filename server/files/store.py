"""What the server needs of a place for its files: prepared images, uploads, videos.

A file appears whole or not at all, and never changes. Its place is made of its id, never of
anything that a caller sent. Rows are not here: a file is there before its row is committed, and a
video or an upload goes before its row, so of these a crash leaves without a row at most those that
were on their way in.

`server.files.local` keeps files in a folder, `server.files.s3` in a bucket. Their methods block.
"""

import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import IO, Protocol, Self

from server.files.content_types import UNKNOWN

MoveIntoPlace = Callable[[], None]
"""Keeps files that are written. It is called within the transaction that adds their rows."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class IncomingFile(Protocol):
    """A file on its way in, which ends by `keep` or `discard`.

    As a context manager it discards at the end of the block what was not kept.

    Attributes:
        content_type: what a store of objects says that it is; to be set before `keep`.
    """

    id: str
    content_type: str

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        error: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    @property
    def size(self) -> int:
        """The bytes so far."""

    @property
    def sha256(self) -> str:
        """Of the bytes so far, in hexadecimal digits."""

    def write(self, data: bytes) -> None:
        """Add bytes."""

    def flush(self) -> None:
        """Do what takes its time; `keep` is quick afterwards."""

    def keep(self) -> None:
        """Let the file be there, under its id."""

    def discard(self) -> None:
        """Give the file up; after `keep` this does nothing."""


class FileStore(Protocol):
    """The files of one server, or of several that share them.

    What reads a file that is not there raises FileNotFoundError.

    Attributes:
        problem: why files can be neither read nor written now, as a sentence; None if they can.
    """

    problem: str | None

    def read(self, artifact_id: str) -> bytes:
        """The whole file."""

    def pieces(self, artifact_id: str) -> Iterator[bytes]:
        """The file from its first byte to its last, some megabytes at a time at most."""

    def open(self, artifact_id: str) -> IO[bytes]:
        """The file, on this machine's disk, at its first byte."""

    def ids(self) -> Iterator[str]:
        """Every file that is there."""

    def receive(self, prefix: str = "", *, content_type: str = UNKNOWN) -> IncomingFile:
        """Begin a file. Its id is a new one that begins with `prefix`, and nobody can guess it."""

    def receive_as(self, artifact_id: str, *, content_type: str = UNKNOWN) -> IncomingFile:
        """Begin a file whose id was agreed before.

        Others may bring one of that id at the same time: the transaction in which `keep` is called
        has to see that only one of them is kept.
        """

    def scratch(self) -> IO[bytes]:
        """A file without a name, which is gone when it is closed, or its process has ended."""

    def remove(self, *artifact_ids: str) -> None:
        """Delete the files that are there, which nobody may read any more.

        Raises:
            OSError, Shortage: the last error. What could be deleted is gone.
        """

    def try_remove(self, artifact_ids: Iterable[str]) -> tuple[list[str], Exception | None]:
        """Delete the files that are there; those that are gone now, and the last error, if any."""


def new_id(prefix: str = "") -> str:
    """An id that is free, and such that nobody can guess it."""
    # 16 random bytes: to know the URL of a file is to have the right to read it.
    return prefix + secrets.token_hex(16)


def is_id(text: str) -> bool:
    """Whether a file of this server may have it for its id."""
    return _ID.fullmatch(text) is not None


def check_id(artifact_id: str) -> None:
    """See that it is an id: one that this server did not make is a bug."""
    assert is_id(artifact_id), f"{artifact_id!r} is not an artefact's id"
