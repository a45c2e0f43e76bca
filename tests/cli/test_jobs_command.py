"""`cosmos-serve jobs`, beside a server that runs and after it."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from command_line import Commands
from job_fixtures import Place
from queue_calls import result_of, status_of, submit, until
from servers import serving, settings_in

from server.db.database import Database


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    return Commands(capsys, str(tmp_path / "data"))


def listed(run: Commands, *options: str) -> dict[str, Any]:
    """The jobs that the list has, by their ids."""
    return {job["id"]: job for job in json.loads(run("jobs", "list", "--json", *options))}


def videos(folder: Path) -> list[Path]:
    files = (folder / "data" / "files").glob("*/*")
    return [file for file in files if not file.name.startswith(("image-", "pixels-"))]


async def test_the_list_has_the_latest_first_and_what_became_of_each(
    tmp_path: Path, run: Commands
) -> None:
    async with serving(settings_in(tmp_path)) as client:
        done, failed = await submit(client), await submit(client, "refuse")
        for job in (done, failed):
            await until(client, job, "COMPLETED")
        running = await submit(client, "sleep 3600")
        await until(client, running, "IN_PROGRESS")
        waiting = await submit(client)
        jobs = listed(run)
        assert list(jobs) == [waiting, running, failed, done]
        states = [job["state"] for job in jobs.values()]
        assert states == ["waiting", "running", "failed", "succeeded"]
        assert list(listed(run, "--status", "in_queue")) == [waiting]
        assert list(listed(run, "--limit", "1")) == [waiting]
        rows = run("jobs", "list").splitlines()
        assert [row.split()[0] for row in rows] == ["ID", waiting, running, failed, done]
        assert rows[3].endswith("The picture is too small.")


async def test_show_tells_all_that_is_known(tmp_path: Path, run: Commands) -> None:
    async with serving(settings_in(tmp_path)) as client:
        job = await submit(client, "a red car", seed=7)
        await until(client, job, "COMPLETED")
        text = run("jobs", "show", job)
        assert f"id         {job}" in text.splitlines()
        assert "state      succeeded" in text.splitlines()
        assert "The script begins." in text
        shown = json.loads(run("jobs", "show", job, "--json"))
        assert (shown["input"]["spec"]["prompt"], shown["result"]["seed"]) == ("a red car", 7)
        assert "The script begins." in [line["message"] for line in shown["logs"]]


async def test_a_running_and_a_waiting_job_are_cancelled_beside_the_server(
    tmp_path: Path, run: Commands
) -> None:
    async with serving(settings_in(tmp_path)) as client:
        running = await submit(client, "sleep 3600")
        await until(client, running, "IN_PROGRESS")
        waiting = await submit(client)
        assert "is cancelled" in run("jobs", "cancel", waiting)
        assert "is asked to stop" in run("jobs", "cancel", running)
        for job in (running, waiting):
            answer = await result_of(client, job)
            assert (answer.status_code, answer.json()["error_type"]) == (499, "client_cancelled")
        assert run.fails("jobs", "cancel", running) == f"The job {running} is done already."


async def test_purging_removes_what_is_done_with_its_files_and_no_running_job(
    tmp_path: Path, run: Commands
) -> None:
    async with serving(settings_in(tmp_path)) as client:
        first, second = await submit(client), await submit(client)
        url = (await result_of(client, first)).json()["video"]["url"]
        await until(client, second, "COMPLETED")
        running = await submit(client, "sleep 3600")
        await until(client, running, "IN_PROGRESS")

        assert run("jobs", "purge", first) == "Removed 1.\n"
        assert len(videos(tmp_path)) == 1
        assert (await client.get(httpx.URL(url).path)).status_code == 404
        assert list(listed(run)) == [running, second]

        assert "Not removed" in run.fails("jobs", "purge", running, "nobody")
        assert run("jobs", "purge", "--older-than-days", "1") == "Removed 0.\n"
        assert run("jobs", "purge", "--older-than-days", "0") == "Removed 1.\n"
        assert videos(tmp_path) == []
        assert list(listed(run)) == [running]
        assert (await status_of(client, running)).json()["status"] == "IN_PROGRESS"


async def test_a_job_that_is_purged_leaves_the_picture_that_another_shares(
    tmp_path: Path, run: Commands
) -> None:
    async with serving(settings_in(tmp_path)) as client:
        first = await submit(client)
        await until(client, first, "COMPLETED")
        run("jobs", "purge", first)
        assert (await result_of(client, await submit(client))).status_code == 200


def test_a_job_whose_webhook_is_still_to_be_sent_is_not_purged(
    tmp_path: Path, run: Commands
) -> None:
    Place(tmp_path / "data").made("told-later", webhook_url="https://example.com/hook")
    assert run("jobs", "purge", "--older-than-days", "0") == "Removed 0.\n"
    assert list(listed(run)) == ["told-later"]


def test_what_cannot_be_done_is_said(tmp_path: Path, run: Commands) -> None:
    Database(tmp_path / "data" / "jobs.sqlite3").close()
    for command in ("show", "cancel"):
        assert "There is no job 'nobody'" in run.fails("jobs", command, "nobody")
