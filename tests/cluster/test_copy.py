"""`cosmos-serve database copy`: a server's SQLite file becomes a database of PostgreSQL."""

from contextlib import closing
from pathlib import Path

import pytest
from job_fixtures import Place, let_leases_lapse, new_job, sql
from pydantic import SecretStr
from sqlalchemy import delete, select

from server.auth.key_store import KeyStore
from server.cli.main import main
from server.db import tables
from server.db.database import Database
from server.db.secrets import read_or_make_secret
from server.jobs.store import JobStore
from server.keys import ApiKey, Credential

pytestmark = pytest.mark.cluster


def run(monkeypatch: pytest.MonkeyPatch, url: SecretStr | None, *arguments: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["cosmos-serve", "database", *map(str, arguments)])
    if url is not None:
        monkeypatch.setenv("COSMOS_DATABASE", url.get_secret_value())
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def contents(database: Database) -> dict[str, list[tuple[object, ...]]]:
    found = {}
    with database.read() as db:
        for table in tables.metadata.sorted_tables:
            if table is not tables.secrets:
                rows = db.execute(select(table).order_by(*table.primary_key))
                found[table.name] = [tuple(row) for row in rows]
    return found


def write(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    """A data folder with something of everything; what its tables hold."""
    place = Place(folder)
    with closing(place.database) as database:
        place.made("a")
        place.submit("b", key_id="me", webhook_url="https://a.example/")
        place.claim()
        place.submit("gone")
        KeyStore(database).add(ApiKey.from_credential(Credential("me", "s"), "me", created_at=1.0))
        with database.write() as db:
            # Its place in the queue is never given to another.
            db.execute(delete(tables.jobs).where(tables.jobs.c.id == "gone"))
        (folder / "token.secret").write_bytes(b"x" * 32)
        return contents(database)


def test_all_of_it_is_copied_and_goes_on(
    tmp_path: Path,
    postgres_database: SecretStr,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    had = write(tmp_path)
    assert run(monkeypatch, postgres_database, "copy", "--data", tmp_path) == 0
    assert "jobs             2 rows" in capsys.readouterr().out

    with closing(Database(postgres_database)) as database:
        assert contents(database) == had
        store = JobStore(database, owner="the next")
        let_leases_lapse(postgres_database)
        assert store.take_over() == 1
        assert store.submit(new_job("next"), queue_limit=9).seq == 4
        secret = read_or_make_secret(database, tmp_path / "new" / "token.secret", lambda: b"new")
        assert secret == b"x" * 32

    assert run(monkeypatch, postgres_database, "copy", "--data", tmp_path) == 1
    assert "has rows in" in capsys.readouterr().err


def test_the_character_0_that_an_earlier_release_took_does_not_stop_a_copy(
    tmp_path: Path, postgres_database: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    spec = {"prompt": "a\0b", "words": ["a\0b"]}
    with closing(place.database):
        place.submit("a", input={"spec": spec, "media": {}}, webhook_url="https://a.example/")
    sql(place.path, "UPDATE jobs SET webhook_url = 'a' || char(0) || 'b'")

    assert run(monkeypatch, postgres_database, "copy", "--data", tmp_path) == 0

    with closing(Database(postgres_database)) as database:
        job = JobStore(database, owner="the next").job("a")
    assert job.input["spec"] == {"prompt": "a\ufffdb", "words": ["a\ufffdb"]}
    assert job.webhook_url == "a\ufffdb"


def test_commands_for_files_of_sqlite_say_so(
    tmp_path: Path,
    postgres_database: SecretStr,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path)
    backup = ("backup", tmp_path / "backup", "--data", tmp_path)
    assert run(monkeypatch, postgres_database, *backup) == 1
    assert "pg_dump" in capsys.readouterr().err
