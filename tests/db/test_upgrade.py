"""A database of any release opens, and has the tables of this one afterwards."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from job_fixtures import sql
from paths import SUPPORT
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from server.auth.key_store import KeyStore
from server.db import tables, upgrade
from server.db.database import Database
from server.db.upgrade import LATEST, UnknownSchema
from server.jobs.store import JobStore
from server.jobs.usage import ended_jobs
from server.models import JobStatus

FIRST_RELEASE = (SUPPORT / "first_release.sql").read_text()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite3"


def write_first_release(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(FIRST_RELEASE)


def differences(path: Path) -> list[object]:
    """What the file's tables have otherwise than `server.db.tables` says."""
    engine = create_engine(f"sqlite:///{path}")
    try:
        with engine.connect() as db:
            return list(compare_metadata(MigrationContext.configure(db), tables.metadata))
    finally:
        engine.dispose()


def revision(path: Path) -> str:
    with closing(sqlite3.connect(path)) as db:
        return str(db.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def test_a_database_of_the_first_release_opens_with_all_that_it_held(path: Path) -> None:
    write_first_release(path)
    with closing(Database(path)) as database:
        store = JobStore(database, owner="test", now=lambda: 2000.0)
        done, waiting = store.standing("done"), store.job("waiting")
        assert done.job.result is not None
        assert done.job.result["video"] == {"artifact": "0123"}
        assert [line.message for line in done.lines] == ["Started on cpu"]
        assert sql(path, "SELECT stage, step, num_steps FROM progress") == [("denoise", 1, 2)]
        assert store.artifact("0123") is not None
        assert [key.id for key in KeyStore(database).all()] == ["alice"]
        assert waiting.status is JobStatus.IN_QUEUE
        claimed = store.claim("cpu")
        assert claimed is not None
        assert claimed.id == "waiting"
        (used,) = ended_jobs(database, 0.0, 2000.0)
        assert (used.ended_at, used.key_id, used.endpoint) == (1005.0, "alice", done.job.endpoint)
        assert (used.http_status, used.error_type) == (200, None)
        assert (used.waited_s, used.run_s, used.gpu_s, used.stage_seconds) == (0.0, 5.0, 5.0, {})
    assert (revision(path), differences(path)) == (LATEST, [])


def test_the_first_release_had_other_tables(path: Path) -> None:
    """Otherwise the test above would show nothing."""
    write_first_release(path)
    assert differences(path) != []


def test_a_new_database_is_made_as_the_steps_would_make_it(path: Path) -> None:
    Database(path).close()
    assert (revision(path), differences(path)) == (LATEST, [])


def test_the_last_step_is_the_one_that_is_taken() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(upgrade.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [LATEST]


def test_a_database_of_a_later_release_is_left_alone(path: Path) -> None:
    Database(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
        db.commit()
    with pytest.raises(UnknownSchema, match="of a later release of cosmos-serve"):
        Database(path)
    assert revision(path) == "9999"


def test_a_step_that_fails_changes_nothing(path: Path) -> None:
    write_first_release(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE switches (something TEXT)")
    with pytest.raises(OperationalError, match="already exists"):
        Database(path)
    assert str(path) not in [file.path for file in psutil.Process().open_files()]
    with closing(sqlite3.connect(path)) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        assert "alembic_version" not in names


def test_a_usual_start_does_not_import_alembic(path: Path) -> None:
    program = (
        "import sys, pathlib, server.app, server.db.database as d\n"
        "for _ in range(2): d.Database(pathlib.Path(sys.argv[1])).close()\n"
        "print('alembic' in sys.modules)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True
    )
    assert finished.stdout == "False\n"
