"""The file that a command makes: it appears whole, under its name, or not at all."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from server.cli.errors import CommandFailed
from server.workers.messages import Artifact


@contextmanager
def new_file(path: Path) -> Iterator["NewFile"]:
    """A file that takes its name, replacing what has it, when the block ends without an error."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as stream:
            yield NewFile(stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class NewFile:
    """Bytes on their way into a file, counted and hashed."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._size = 0
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Add bytes."""
        self._stream.write(data)
        self._size += len(data)
        self._digest.update(data)

    def check(self, artifact: Artifact) -> None:
        """Raise `CommandFailed` unless these are the bytes that the worker describes."""
        if (self._size, self._digest.hexdigest()) != (artifact.size, artifact.sha256):
            raise CommandFailed(
                f"The worker sent {self._size:,} bytes that are not the {artifact.size:,} bytes "
                "of the video it made. Nothing was kept."
            )
