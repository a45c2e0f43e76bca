"""Which files a checkpoint has, with the size and the hash of each.

The hub lists them so, and what was pulled is recorded so, in `checksums.json` beside the weights.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from weights.errors import CheckpointDamaged, CheckpointIncomplete
from weights.files import read_json_object
from weights.manifest import MODEL_INDEX, Manifest
from weights.parallel import Parallel

RECORD = "checksums.json"
BLOCK_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """A file of a checkpoint.

    path: relative to the checkpoint's folder, with `/`.
    size: bytes.
    hash: `sha256:` or `git-blob-sha1:` and hexadecimal digits. The hub has the first for the files
        that Git LFS keeps, and the second, git's own name of a file, for the others.
    """

    path: str
    size: int
    hash: str

    def new_digest(self) -> "hashlib._Hash":
        """A digest of no bytes yet, for `is_hash` to compare."""
        if self.hash.startswith("sha256:"):
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def is_hash(self, digest: "hashlib._Hash") -> bool:
        """Whether the digest is that of the listed bytes."""
        return digest.hexdigest() == self.hash.rpartition(":")[2]

    def is_of(self, data: bytes) -> bool:
        """Whether these are the listed bytes."""
        digest = self.new_digest()
        digest.update(data)
        return self.is_hash(digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of a checkpoint at a commit of its repository.

    converted_from: the file that the transformer was converted from, if it was.
    """

    repository: str
    commit: str
    files: tuple[ListedFile, ...]
    converted_from: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def file(self, path: str) -> ListedFile:
        """The file of that path.

        Raises:
            CheckpointIncomplete: it is not listed.
        """
        for file in self.files:
            if file.path == path:
                return file
        raise self._lacks([path])

    def _lacks(self, paths: list[str]) -> CheckpointIncomplete:
        return CheckpointIncomplete(
            f"The listing of {self.repository} at {self.commit} lacks {', '.join(paths)}."
        )

    def save(self, folder: Path) -> None:
        """Record the listing in a checkpoint's folder."""
        part = folder / f"{RECORD}.part"
        part.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        part.replace(folder / RECORD)

    def needed(self, manifest: Manifest) -> "Listing":
        """The listing of those files that we read.

        Raises:
            CheckpointIncomplete: it lacks some.
        """
        files = {file.path: file for file in self.files}
        wanted = {MODEL_INDEX} & files.keys()
        missing = [MODEL_INDEX] if not wanted else []
        for component in manifest.components:
            names = {path.partition("/")[2] for path in files if path.startswith(component.folder)}
            wanted |= {component.folder + name for name in names if component.reads(name)}
            missing += [component.folder + name for name in component.lacks(names)]
        if missing:
            raise self._lacks(missing)
        return Listing(
            repository=self.repository,
            commit=self.commit,
            files=tuple(files[path] for path in sorted(wanted)),
        )


def read_listing(path: Path) -> Listing:
    """The listing in a file.

    Raises:
        CheckpointIncomplete: there is no such file, or no such folder.
        CheckpointDamaged: it holds no listing.
    """
    if not path.parent.is_dir():
        raise CheckpointIncomplete(f"There is no folder {path.parent}.")
    if not path.is_file():
        raise CheckpointIncomplete(
            f"There is no {path}, which `cosmos-serve weights pull` writes: without it nothing "
            "says which bytes are right."
        )
    value = read_json_object(path)
    match value:
        case {"repository": str(repository), "commit": str(commit), "files": [*entries]} if all(
            map(_is_entry, entries)
        ) and isinstance(converted_from := value.get("converted_from"), str | None):
            return Listing(
                repository=repository,
                commit=commit,
                files=tuple(ListedFile(**entry) for entry in entries),
                converted_from=converted_from,
            )
    raise CheckpointDamaged(f"{path} is no listing of files with their sizes and hashes.")


def _is_entry(entry: Any) -> bool:
    match entry:
        case {"path": str(name), "size": int(), "hash": str(text), **rest}:
            path = PurePosixPath(name)
            inside = not path.is_absolute() and ".." not in path.parts
            return inside and not rest and text.startswith(("sha256:", "git-blob-sha1:"))
    return False


def list_file(folder: Path, path: str) -> ListedFile:
    """A file of a checkpoint's folder, as it is now."""
    with (folder / path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return ListedFile(path=path, size=file.tell(), hash=f"sha256:{digest.hexdigest()}")


def find_faults(
    folder: Path, files: Iterable[ListedFile], advance: Callable[[int], None]
) -> list[str]:
    """A phrase for each file that is missing or has other bytes than the listed ones.

    Every byte is read, of several files at a time; `advance` is told how many, from threads.
    """
    parallel = Parallel(advance)
    faults = parallel.run(lambda file: _fault(folder / file.path, file, parallel.advance), files)
    return [fault for fault in faults if fault is not None]


def _fault(path: Path, file: ListedFile, advance: Callable[[int], None]) -> str | None:
    try:
        size = path.stat().st_size
        if size == file.size:
            with path.open("rb") as opened:
                digest = file.new_digest()
                add_bytes(digest, opened, advance)
    except FileNotFoundError:
        return f"{file.path} is missing"
    except OSError as error:
        return f"{file.path} cannot be read: {error.strerror}"
    if size != file.size:
        return f"{file.path} has {size:,} bytes, and {file.size:,} are listed"
    return None if file.is_hash(digest) else f"{file.path} has other bytes than the listed ones"


def add_bytes(digest: "hashlib._Hash", file: BinaryIO, advance: Callable[[int], None]) -> int:
    """Add the rest of an open file to a digest; how many bytes that were."""
    count = 0
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
        advance(len(block))
        count += len(block)
    return count
