"""Files appear whole or not at all."""

import hashlib
from pathlib import Path

import pytest

from server.files.store import FileStore

DATA = b"a video, or so"


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "files")


def keep(files: FileStore) -> str:
    with files.receive() as incoming:
        incoming.write(DATA)
        incoming.keep_as(incoming.id)
        return incoming.id


def names_in(tmp_path: Path) -> list[str]:
    return [path.name for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_that_comes_in_pieces_appears_whole(files: FileStore, tmp_path: Path) -> None:
    incoming = files.receive()
    incoming.write(DATA[:5])
    incoming.write(DATA[5:])
    assert all(name.endswith(".part") for name in names_in(tmp_path))

    incoming.keep_as(incoming.id)

    assert files.read(incoming.id) == DATA
    assert names_in(tmp_path) == [incoming.id]
    assert (incoming.size, incoming.sha256) == (len(DATA), hashlib.sha256(DATA).hexdigest())


def test_a_file_that_is_given_up_leaves_nothing(files: FileStore, tmp_path: Path) -> None:
    incoming = files.receive()
    incoming.write(DATA)
    incoming.discard()

    assert names_in(tmp_path) == []


def test_what_a_dead_server_was_writing_is_cleared_away(files: FileStore, tmp_path: Path) -> None:
    kept = keep(files)
    abandoned = files.receive()
    abandoned.write(DATA)
    (tmp_path / "files" / "mine").mkdir()
    for name in ("film.mp4.part", "film", f"{abandoned.id}.part"):
        (tmp_path / "files" / "mine" / name).write_bytes(DATA)

    FileStore(tmp_path / "files").clear_parts()

    assert sorted(names_in(tmp_path)) == sorted(
        [kept, "film.mp4.part", "film", f"{abandoned.id}.part"]
    )
    assert list(files.ids()) == [kept]
    abandoned.discard()


def test_a_removed_file_is_gone_and_may_be_removed_again(files: FileStore) -> None:
    kept = keep(files)
    files.remove(kept)
    files.remove(kept)

    with pytest.raises(FileNotFoundError):
        files.read(kept)


@pytest.mark.parametrize("artifact_id", ["../jobs.sqlite3", "", "a/b", "a.part", "/etc/passwd"])
def test_a_path_is_made_of_an_id_only(files: FileStore, artifact_id: str) -> None:
    with pytest.raises(AssertionError, match="not an artefact's id"):
        files.path(artifact_id)
