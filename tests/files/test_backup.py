"""A data folder is copied while others use it, and back into one that nobody uses."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest
from job_fixtures import Place, sql
from paths import SUPPORT

from server.data_folder import DataFolderInUse, owned
from server.db.database import Database
from server.db.snapshot import copy_database
from server.errors import DatabaseDamaged
from server.files import backup
from server.files.backup import BackupRefused, Copied, back_up, restore
from server.files.local import LocalFiles


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A server's data folder, in use."""
    place = Place(tmp_path / "data")
    yield place
    place.database.close()


def quietly(_size: int) -> nullcontext[Mock]:
    return nullcontext(Mock())


def jobs_in(folder: Path) -> list[str]:
    return [str(job) for (job,) in sql(folder / "jobs.sqlite3", "SELECT id FROM jobs ORDER BY seq")]


def files_in(folder: Path) -> set[str]:
    return set(LocalFiles(folder / "files").ids())


def test_files_in_s3_are_not_looked_for(place: Place, tmp_path: Path) -> None:
    place.made("a")
    copied = back_up(tmp_path / "data", tmp_path / "backup", quietly, with_files=False)
    restored = restore(tmp_path / "backup", tmp_path / "new", quietly, with_files=False)

    assert copied == restored == Copied(files=0, size=0, missing=0)
    assert (jobs_in(tmp_path / "new"), files_in(tmp_path / "new")) == (["a"], set())


def test_files_follow_the_tables_of_one_moment(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, removed = place.made("a")
    _, kept = place.made("b")

    def and_then(source: Path, target: Path) -> dict[str, int]:
        names = copy_database(source, target)
        place.made("made meanwhile")
        place.files.remove(removed.id)
        return names

    monkeypatch.setattr(backup, "copy_database", and_then)
    copied = back_up(tmp_path / "data", tmp_path / "backup", quietly)

    assert copied == Copied(files=1, size=5, missing=1)
    assert jobs_in(tmp_path / "backup") == ["a", "b"]
    assert files_in(tmp_path / "backup") == {kept.id}


def test_pictures_that_are_kept_for_minutes_are_copied_first(place: Place, tmp_path: Path) -> None:
    _, video = place.made("a")
    _, other = place.made("b")
    sql(place.path, "UPDATE artifacts SET kind = 'pixels' WHERE id = ?", other.id)

    assert list(copy_database(place.path, tmp_path / "copy")) == [other.id, video.id]


def test_a_backup_is_for_its_user_alone(place: Place, tmp_path: Path) -> None:
    place.made("a")
    (tmp_path / "data" / "token.secret").write_bytes(b"secret")
    (tmp_path / "backup").mkdir(mode=0o755)

    back_up(tmp_path / "data", tmp_path / "backup", quietly)

    files = [path for path in (tmp_path / "backup").rglob("*") if path.is_file()]
    assert tmp_path / "backup" / "token.secret" in files
    assert [path for path in files if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("what", ["backup", "restore"])
def test_a_copy_that_was_interrupted_is_no_backup_and_is_begun_again(
    what: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = {place.made(job)[1].id for job in "ab"}
    data, folder, restored = (tmp_path / name for name in ("data", "backup", "restored"))
    if what == "restore":
        back_up(data, folder, quietly)

    def copy() -> Copied:
        if what == "backup":
            return back_up(data, folder, quietly)
        return restore(folder, restored, quietly)

    real, calls = shutil.copyfile, iter(range(9))

    def interrupted(source: Path, target: Path) -> None:
        real(source, target)
        if next(calls) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", interrupted)
        with pytest.raises(KeyboardInterrupt):
            copy()
    if what == "backup":
        with pytest.raises(BackupRefused, match="it was interrupted, and is not whole"):
            restore(folder, restored, quietly)
        assert not restored.exists()
    assert not ((folder if what == "backup" else restored) / "jobs.sqlite3").exists()

    assert copy().files == 2
    target = folder if what == "backup" else restored
    assert (jobs_in(target), files_in(target)) == (["a", "b"], videos)


def test_a_backup_goes_into_an_empty_folder_only(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    (folder / "lost+found").mkdir(parents=True)
    back_up(tmp_path / "data", folder, quietly)
    before = (folder / "jobs.sqlite3").stat().st_ino

    with pytest.raises(BackupRefused, match="is not empty"):
        back_up(tmp_path / "data", folder, quietly)
    assert (folder / "jobs.sqlite3").stat().st_ino == before


def test_what_has_no_database_is_neither_backed_up_nor_restored(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BackupRefused, match="There is no database in"):
        back_up(tmp_path / "empty", tmp_path / "backup", quietly)
    with pytest.raises(BackupRefused, match="There is no backup in"):
        restore(tmp_path / "empty", tmp_path / "data", quietly)
    assert {path.name for path in tmp_path.iterdir()} == {"empty"}


def test_a_restore_replaces_nothing(place: Place, tmp_path: Path) -> None:
    place.made("a")
    back_up(tmp_path / "data", tmp_path / "backup", quietly)
    place.made("b")

    with pytest.raises(BackupRefused, match=r"has .*files, jobs\.sqlite3.* move it away first"):
        restore(tmp_path / "backup", tmp_path / "data", quietly)
    assert jobs_in(tmp_path / "data") == ["a", "b"]


def test_a_folder_that_a_server_uses_is_not_restored_to(place: Place, tmp_path: Path) -> None:
    back_up(tmp_path / "data", tmp_path / "backup", quietly)
    with owned(tmp_path / "another"):
        with pytest.raises(DataFolderInUse):
            restore(tmp_path / "backup", tmp_path / "another", quietly)
        assert not (tmp_path / "another" / "jobs.sqlite3").exists()


def test_a_database_of_an_earlier_release_is_copied_as_it_is(tmp_path: Path) -> None:
    data, folder, restored = (tmp_path / name for name in ("data", "backup", "restored"))
    data.mkdir()
    with closing(sqlite3.connect(data / "jobs.sqlite3")) as db:
        db.executescript((SUPPORT / "first_release.sql").read_text())

    back_up(data, folder, quietly)
    restore(folder, restored, quietly)

    for copy in (data, folder, restored):
        tables = sql(copy / "jobs.sqlite3", "SELECT name FROM sqlite_schema WHERE type = 'table'")
        assert ("jobs",) in tables and ("alembic_version",) not in tables
    Database(restored / "jobs.sqlite3").close()


def test_a_damaged_database_makes_no_backup(place: Place, tmp_path: Path) -> None:
    place.made("a")
    place.database.close()
    with place.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)

    with pytest.raises(DatabaseDamaged):
        back_up(tmp_path / "data", tmp_path / "backup", quietly)
    assert not (tmp_path / "backup" / "jobs.sqlite3").exists()
