"""Servers of one database that accept requests, and one that runs the jobs."""

from pathlib import Path

import httpx
import psutil
import pytest
from pydantic import SecretStr
from queue_calls import SUBMIT
from servers import request_of, serving, settings_in
from shared_queue import result, server, submit, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


def test_a_job_goes_on_while_the_server_that_accepted_it_is_killed_and_replaced(
    tmp_path: Path, postgres_database: SecretStr
) -> None:
    files = tmp_path / "dispatch" / "data" / "files"
    with server(tmp_path / "dispatch", postgres_database, COSMOS_ROLE="dispatch") as dispatch:
        with server(tmp_path / "api", postgres_database, files, COSMOS_ROLE="api") as api:
            assert workers_of(api.process.pid) == []
            ready = httpx.get(f"{api.http}/health/ready")
            assert (ready.status_code, ready.json()["slots"]) == (200, [])
            job = submit(api, "sleep 1")
            until(api, job, "IN_PROGRESS")
            (worker,) = workers_of(dispatch.process.pid)
            api.process.kill()
        with server(tmp_path / "other", postgres_database, files, COSMOS_ROLE="api") as other:
            assert result(other, job).status_code == 200
        assert workers_of(dispatch.process.pid) == [worker]


def test_a_job_waits_while_no_server_runs_jobs_and_a_server_that_only_runs_them_takes_none(
    tmp_path: Path, postgres_database: SecretStr
) -> None:
    with server(tmp_path / "api", postgres_database, COSMOS_ROLE="api") as api:
        job = submit(api)
        files = tmp_path / "api" / "data" / "files"
        with server(
            tmp_path / "dispatch", postgres_database, files, COSMOS_ROLE="dispatch"
        ) as dispatch:
            assert result(api, job).status_code == 200
            assert httpx.get(f"{dispatch.http}/health/live").status_code == 200
            assert httpx.get(f"{dispatch.http}/metrics").status_code == 200
            refused = httpx.post(f"{dispatch.http}{SUBMIT}", json=request_of())
            assert refused.status_code == 404


@pytest.mark.parametrize("shared", [False, True])
async def test_a_server_whose_files_the_others_may_lack_says_so(
    tmp_path: Path,
    postgres_database: SecretStr,
    capfd: pytest.CaptureFixture[str],
    shared: bool,
) -> None:
    settings = settings_in(tmp_path, database=postgres_database, role="dispatch")
    if shared:
        for folder in (settings.data, tmp_path / "network"):
            folder.mkdir()
        (settings.data / "files").symlink_to(tmp_path / "network")
    async with serving(settings):
        logged = "".join(capfd.readouterr())
    assert (f"kept in {settings.data / 'files'}" in logged) is not shared


def workers_of(server: int) -> list[psutil.Process]:
    """The worker processes of a server."""
    children = psutil.Process(server).children(recursive=True)
    return [child for child in children if "workers.loop" in "".join(child.cmdline())]
