"""Two servers on one database of PostgreSQL: each sees, stops and finishes what both accept."""

import os
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from crash_site import receiving
from job_fixtures import let_leases_lapse, sql
from postgres_server import PASSWORD, PostgresServer
from pydantic import SecretStr
from queue_calls import SUBMIT
from servers import COMMAND, SCRIPTED, command_line, request_of
from shared_queue import REQUESTS, result, server, submit, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


@pytest.fixture(params=["folder", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where two servers have their files: in the folder of the first, or in S3."""
    if request.param == "folder":
        return tmp_path / "one" / "data" / "files"
    bucket: str = request.getfixturevalue("bucket")
    return bucket


def test_a_job_of_a_server_that_is_killed_is_finished_by_another(
    tmp_path: Path, postgres_database: SecretStr, files: Path | str
) -> None:
    with receiving() as receiver, server(tmp_path / "one", postgres_database, files) as one:
        job = submit(one, "hang once", fal_webhook=receiver.url)
        until(one, job, "IN_PROGRESS")
        with server(tmp_path / "other", postgres_database, files) as other:
            assert one.end(signal.SIGKILL) == -signal.SIGKILL
            let_leases_lapse(postgres_database)
            made = result(other, job)
            assert made.status_code == 200
            video = httpx.URL(made.json()["video"]["url"]).path
            assert httpx.get(f"{other.http}{video}").status_code == 200
            rows = sql(postgres_database, "SELECT attempt, worker_deaths FROM jobs")
            assert rows == [(2, 0)]
            while not receiver.hooks:
                time.sleep(0.02)
            assert [hook["request_id"] for hook in receiver.hooks] == [job]
            assert other.end() == 0


def test_a_job_that_runs_at_one_server_is_seen_and_stopped_at_another(
    tmp_path: Path, postgres_database: SecretStr, files: Path | str
) -> None:
    with server(tmp_path / "one", postgres_database, files) as one:
        job = submit(one, "wait")
        until(one, job, "IN_PROGRESS")
        with server(tmp_path / "other", postgres_database, files) as other:
            until(other, job, "IN_PROGRESS")
            assert httpx.put(f"{other.http}{REQUESTS}/{job}/cancel").status_code == 202
            assert result(one, job).status_code == 499
            # The start of the other was not one that puts jobs back.
            assert sql(postgres_database, "SELECT attempt FROM jobs") == [(1,)]


def test_nothing_is_lost_as_postgresql_is_killed_and_started_again(
    tmp_path: Path,
    postgres: PostgresServer,
    postgres_database: SecretStr,
    files: Path | str,
) -> None:
    with (
        server(tmp_path / "one", postgres_database, files) as one,
        server(tmp_path / "other", postgres_database, files) as other,
    ):
        jobs = [submit(each, "sleep 0.3") for _ in range(4) for each in (one, other)]
        until(one, jobs[0], "COMPLETED")
        postgres.stop("immediate")
        away = httpx.post(f"{one.http}{SUBMIT}", json=request_of())
        assert (away.status_code, away.headers["x-fal-retryable"]) == (503, "true")
        postgres.start()
        assert [result(one, job).status_code for job in jobs] == [200] * len(jobs)
        videos = "SELECT count(*), count(DISTINCT job_id) FROM artifacts WHERE kind = 'video'"
        assert sql(postgres_database, videos) == [(8, 8)]
        assert [each.end() for each in (one, other)] == [0, 0]


def test_a_server_with_other_secrets_does_not_start(
    tmp_path: Path, postgres_database: SecretStr
) -> None:
    (tmp_path / "other" / "data").mkdir(parents=True)
    (tmp_path / "other" / "data" / "token.secret").write_bytes(b"x" * 32)
    with server(tmp_path / "one", postgres_database):
        assert not (tmp_path / "one" / "data" / "token.secret").exists()
        other = start_failing(tmp_path / "other", postgres_database)
    assert "token.secret is another secret than the one" in other.stderr
    assert (other.returncode, PASSWORD in other.stderr) == (2, False)


def start_failing(folder: Path, url: SecretStr) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *command_line(folder)],
        env={**os.environ, **SCRIPTED, "COSMOS_DATABASE": url.get_secret_value()},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_server_ends_as_a_later_release_upgrades_the_database(
    tmp_path: Path, postgres_database: SecretStr
) -> None:
    with server(tmp_path, postgres_database) as one:
        sql(postgres_database, "UPDATE alembic_version SET version_num = '9999'")
        assert one.process.wait(30) == 0
    again = start_failing(tmp_path, postgres_database)
    assert again.returncode == 1
    assert "of a later release of cosmos-serve" in again.stderr
