"""Bring a checkpoint's files into a folder: resumed, verified while they are written, recorded."""

import fcntl
import os
import shlex
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Protocol

from weights.checkpoint_profile import PROFILE_FILE
from weights.download import Interrupted, Source, Stream, Tries
from weights.errors import PullFailed
from weights.listing import BLOCK_BYTES, ListedFile, Listing, add_bytes
from weights.parallel import Parallel

MAX_WRONG = 2
"""Whole files with wrong bytes after which a file is given up: the first may have been begun by an
earlier pull."""


class Display(Protocol):
    """Shows how far the pull is. Its methods are called from several threads."""

    def advance(self, count: int) -> None:
        """So many bytes more are here; fewer, if the number is negative."""

    def say(self, line: str) -> None:
        """Something has happened."""


class Folder:
    """A source of files: a checkpoint that is at hand."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def open(self, file: ListedFile, start: int) -> Iterator[Stream]:
        """As `Source` has it."""
        path = self._root / file.path
        if (size := path.stat().st_size) != file.size:
            raise PullFailed(f"{path} has {size:,} bytes, and {file.size:,} are listed.")
        with path.open("rb") as opened:
            opened.seek(start)
            yield Stream(start, iter(lambda: opened.read(BLOCK_BYTES), b""))


def pull(
    source: Source,
    listing: Listing,
    folder: Path,
    display: Display,
    *,
    replace: bool = True,
    stopping: threading.Event | None = None,
) -> None:
    """Bring the listed files into `folder`, and record the listing there.

    Arguments and errors are those of `bring`.
    """
    bring(source, listing.files, folder, display, replace=replace, stopping=stopping)
    listing.save(folder)


def bring(
    source: Source,
    files: Sequence[ListedFile],
    folder: Path,
    display: Display,
    *,
    more_bytes: int = 0,
    replace: bool = True,
    stopping: threading.Event | None = None,
) -> None:
    """Bring files into a checkpoint's folder, several at a time.

    A file is written beside its place as `NAME.part`, which stays when this ends early: the next
    time goes on from it. A file that is there already is read, and fetched again if it is not the
    listed one. `cosmos_serve.json` comes first: it tells whose folder this is.

    Args:
        more_bytes: what will be written there afterwards.
        replace: whether a file that is there and is not the listed one gives way, or is left as it
            is, and this fails.
        stopping: ends this, once it is set.

    Raises:
        PullFailed: `check_folder` fails, the source does not give a file, or not the right one, or
            another process pulls into the folder.
        OSError: a file cannot be read or written.
        Stopped: `stopping` was set.
    """
    check_folder(files, folder, more_bytes=more_bytes)
    profiles = [file for file in files if file.path == PROFILE_FILE]
    # The longest first: they would be waited for at the end.
    others = sorted((f for f in files if f not in profiles), key=lambda f: f.size, reverse=True)
    parallel = Parallel(display.advance, stopping)

    def bring_one(file: ListedFile) -> None:
        _Writer(source, file, folder, parallel, display).bring(replace=replace)

    for group in (profiles, others):
        parallel.run(bring_one, group)


def check_folder(files: Sequence[ListedFile], folder: Path, *, more_bytes: int = 0) -> None:
    """See that the files can be brought into the folder, which is made if it is not there.

    Raises:
        PullFailed: it holds another checkpoint, cannot be written, or has too little space.
    """
    _refuse_another(folder, [file for file in files if file.path == PROFILE_FILE])
    make_folder(folder)
    _check_space(files, folder, more_bytes)


def make_folder(folder: Path) -> None:
    """Make the folder if it is not there, and see that this user may write in it.

    Raises:
        PullFailed: it may not.
    """
    uid = os.geteuid()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except PermissionError as error:
        raise PullFailed(
            f"{folder} cannot be made by uid {uid}, as which this program runs: run "
            f"`install -d -o {uid} {shlex.quote(str(folder))}` as root."
        ) from error
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise PullFailed(f"{folder} is on a file system that is mounted read-only.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PullFailed(
            f"{folder} belongs to uid {folder.stat().st_uid}, and this program runs as uid {uid}, "
            f"which may not write it: run `chown -R {uid} {shlex.quote(str(folder))}` as root."
        )


def _refuse_another(folder: Path, profiles: Sequence[ListedFile]) -> None:
    """Refuse a folder whose `cosmos_serve.json` is not the listed one, or is missing where there
    is a transformer already."""
    path = folder / PROFILE_FILE
    if path.exists():
        is_another = not any(profile.is_of(path.read_bytes()) for profile in profiles)
        judged_by = PROFILE_FILE
    else:
        is_another = bool(profiles) and any(folder.glob("transformer/*.safetensors"))
        judged_by = "transformer"
    if is_another:
        raise PullFailed(f"{folder} holds another checkpoint, to judge by its {judged_by}.")


def _check_space(files: Iterable[ListedFile], folder: Path, more_bytes: int) -> None:
    wanted = more_bytes
    for file in files:
        path = folder / file.path
        if _size(path) != file.size:
            wanted += max(0, file.size - _size(_part_of(path)))
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise PullFailed(
            f"{folder} has {free / 2**30:.1f} GiB of free space, and {wanted / 2**30:.1f} GiB are "
            "still to come."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


class _Writer:
    """Brings one file into the folder."""

    def __init__(
        self, source: Source, file: ListedFile, folder: Path, parallel: Parallel, display: Display
    ) -> None:
        self._source = source
        self._file = file
        self._folder = folder
        self._path = folder / file.path
        self._parallel = parallel
        self._tries = Tries(file.path, display.say, parallel.wait)
        self._digest = file.new_digest()
        self._position = 0

    def bring(self, *, replace: bool) -> None:
        if self._is_here():
            return
        if self._path.exists() and not replace:
            raise PullFailed(
                f"{self._path} is not the file that the hub lists, and is left as it is. To "
                f"replace it: {shlex.join(['cosmos-serve', 'weights', 'pull', str(self._folder)])}"
            )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = _part_of(self._path)
        # Not buffered: what came is in the file when the process is killed.
        with FileIO(part, "a+") as out:
            _lock(out, part)
            out.seek(0)
            self._position = add_bytes(self._digest, out, self._parallel.advance)
            for _ in range(MAX_WRONG):
                self._complete(out)
                if self._file.is_hash(self._digest):
                    os.fsync(out.fileno())
                    part.replace(self._path)
                    return
                self._begin_again(out)
        part.unlink()
        raise PullFailed(
            f"{self._file.path} came with other bytes than the listed ones, {MAX_WRONG} times. "
            "Nothing of it was kept."
        )

    def _is_here(self) -> bool:
        if _size(self._path) != self._file.size:
            return False
        digest = self._file.new_digest()
        with self._path.open("rb") as opened:
            count = add_bytes(digest, opened, self._parallel.advance)
        if self._file.is_hash(digest):
            return True
        self._parallel.advance(-count)
        return False

    def _complete(self, out: FileIO) -> None:
        """Read until the part has as many bytes as the file, or more."""
        furthest = self._position
        while self._position < self._file.size:
            try:
                self._read_on(out)
                error = Interrupted("the bytes ended too early")
            except Interrupted as interrupted:
                error = interrupted
            if self._position > furthest:
                furthest = self._position
                self._tries.progressed()
            if self._position < self._file.size:
                self._tries.failed(error)

    def _read_on(self, out: FileIO) -> None:
        with self._source.open(self._file, self._position) as stream:
            if stream.start != self._position:
                self._begin_again(out)
            for chunk in stream.chunks:
                _write(out, chunk)
                self._digest.update(chunk)
                self._position += len(chunk)
                self._parallel.advance(len(chunk))
                if self._position > self._file.size:
                    return

    def _begin_again(self, out: FileIO) -> None:
        out.truncate(0)
        self._parallel.advance(-self._position)
        self._position = 0
        self._digest = self._file.new_digest()


def _lock(out: FileIO, part: Path) -> None:
    """Refuse a part that another process writes; the lock goes with the open file."""
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PullFailed(f"{part} is being written by another process.") from error


def _write(out: FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[out.write(left) :]
