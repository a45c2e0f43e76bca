"""Files appear whole or not at all, in a folder and in a bucket."""

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import objects_in_memory

from server.files.incoming_object import PIECE_BYTES
from server.files.local import LocalFiles
from server.files.s3 import S3Files
from server.files.store import FileStore, IncomingFile

DATA = b"a video, or so"
LARGE = os.urandom(2 * PIECE_BYTES + 1)


@pytest.fixture(params=["folder", "memory", pytest.param("s3", marks=pytest.mark.cluster)])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> FileStore:
    if request.param == "folder":
        return LocalFiles(tmp_path / "files")
    if request.param == "memory":
        return objects_in_memory(tmp_path)
    return S3Files.at(request.getfixturevalue("bucket"), scratch=tmp_path)


def written(incoming: IncomingFile, data: bytes) -> IncomingFile:
    for start in range(0, len(data), 1_000_000):
        incoming.write(data[start : start + 1_000_000])
    return incoming


def keep(files: FileStore, data: bytes = DATA, prefix: str = "") -> str:
    with files.receive(prefix) as incoming:
        written(incoming, data).keep()
        return incoming.id


@pytest.mark.parametrize(
    "data", [b"", DATA, LARGE[:PIECE_BYTES], LARGE[: PIECE_BYTES + 1], LARGE], ids=len
)
def test_a_file_that_comes_in_pieces_appears_whole(files: FileStore, data: bytes) -> None:
    incoming = written(files.receive(), data)
    assert list(files.ids()) == []

    incoming.flush()
    incoming.keep()

    assert list(files.ids()) == [incoming.id]
    assert files.read(incoming.id) == data
    assert b"".join(files.pieces(incoming.id)) == data
    with files.open(incoming.id) as file:
        assert file.read() == data
    assert (incoming.size, incoming.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("data", [DATA, LARGE], ids=len)
@pytest.mark.parametrize("is_flushed", [False, True])
def test_a_file_that_is_given_up_leaves_nothing(
    files: FileStore, data: bytes, is_flushed: bool
) -> None:
    threads = threading.active_count()
    for incoming in (files.receive(), files.receive_as("0" * 32)):
        with incoming:
            written(incoming, data)
            if is_flushed:
                incoming.flush()

    assert list(files.ids()) == []
    assert threading.active_count() == threads


@pytest.mark.parametrize("data", [DATA, LARGE], ids=len)
def test_a_file_of_an_agreed_id_is_there_once_it_is_kept(files: FileStore, data: bytes) -> None:
    """Two bring it at once: the one that is not kept leaves the other's as it is."""
    agreed = "f" * 32
    with files.receive_as(agreed) as incoming, files.receive_as(agreed) as other:
        for each, content in ((incoming, data), (other, data[::-1])):
            written(each, content)
            each.flush()
        assert list(files.ids()) == []
        incoming.keep()

    assert files.read(agreed) == data


def test_a_file_that_is_kept_has_an_id_that_nobody_can_guess(files: FileStore) -> None:
    ids = {keep(files, prefix=prefix) for prefix in ("", "", "part-", "image-")}

    assert set(files.ids()) == ids
    assert sorted(len(each) for each in ids) == [32, 32, 37, 38]


def test_a_removed_file_is_gone_and_may_be_removed_again(files: FileStore) -> None:
    kept, part = keep(files), keep(files, prefix="part-")
    files.remove(kept, part)
    files.remove(kept, part)

    assert list(files.ids()) == []
    for read in (files.read, files.open, lambda name: next(files.pieces(name))):
        with pytest.raises(FileNotFoundError):
            read(kept)


@pytest.mark.parametrize("artifact_id", ["../jobs.sqlite3", "", "a/b", "a.part", "/etc/passwd"])
def test_a_path_is_made_of_an_id_only(files: FileStore, artifact_id: str) -> None:
    for use in (files.read, files.remove, files.receive_as):
        with pytest.raises(AssertionError, match="not an artefact's id"):
            use(artifact_id)


# A folder alone.


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[LocalFiles]:
    yield LocalFiles(tmp_path / "files")


def names_in(tmp_path: Path) -> list[str]:
    return [path.name for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_in_a_folder_has_its_name_when_it_is_whole(
    folder: LocalFiles, tmp_path: Path
) -> None:
    with folder.receive() as incoming:
        incoming.write(DATA)
        assert all(name.endswith(".part") for name in names_in(tmp_path))
        incoming.keep()
        assert names_in(tmp_path) == [incoming.id]


def test_what_a_dead_server_was_writing_is_cleared_away(folder: LocalFiles, tmp_path: Path) -> None:
    kept = keep(folder)
    abandoned = folder.receive()
    abandoned.write(DATA)
    (tmp_path / "files" / "mine").mkdir()
    for name in ("film.mp4.part", "film", f"{abandoned.id}.part"):
        (tmp_path / "files" / "mine" / name).write_bytes(DATA)

    LocalFiles(tmp_path / "files").clear_parts()

    assert sorted(names_in(tmp_path)) == sorted(
        [kept, "film.mp4.part", "film", f"{abandoned.id}.part"]
    )
    assert list(folder.ids()) == [kept]
    abandoned.discard()
