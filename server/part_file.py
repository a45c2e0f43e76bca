"""A file that appears under its name whole and on the disk, or not at all."""

import hashlib
import os
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self


class PartFile:
    """Bytes are written to `part`, which is renamed when they are complete.

    It ends by `move_to` or `discard`. As a context manager it discards at the end of the block what
    was not moved. `mode` holds from the start.

    Every method blocks; all but `discard` raise OSError if the disk does not take it.
    """

    def __init__(self, part: Path, *, mode: int = 0o666) -> None:
        self._part = part
        # A part that a killed process left may have another mode.
        part.unlink(missing_ok=True)
        # Not buffered: a write that fails raises in `write`, not when the file is closed.
        self._file = FileIO(part, "x", opener=lambda path, flags: os.open(path, flags, mode))
        self._hash = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()

    @property
    def sha256(self) -> str:
        """Of the bytes so far, in hexadecimal digits."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Add bytes."""
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self._hash.update(data)
        self.size += len(data)

    def flush(self) -> None:
        """Bring the bytes to the disk, which takes its time; `move_to` is quick afterwards."""
        os.fsync(self._file.fileno())

    def move_to(self, path: Path) -> None:
        """Bring the bytes to the disk and give the file its name, which one of that name loses."""
        self.flush()
        self._file.close()
        self._part.replace(path)
        sync_folder(path.parent)

    def discard(self) -> None:
        """Give the file up; after `move_to` this does nothing."""
        self._file.close()
        self._part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """Where a file is written until it is complete."""
    return path.with_name(f"{path.name}.part")


def write_file(path: Path, data: bytes, *, mode: int) -> None:
    """Write a whole file, which replaces one of that name."""
    with PartFile(part_of(path), mode=mode) as file:
        file.write(data)
        file.move_to(path)


def sync_folder(folder: Path) -> None:
    """Bring the names of a folder's files to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
