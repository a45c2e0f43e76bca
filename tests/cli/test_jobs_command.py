"""`cosmos-serve jobs`, beside a server that runs and after it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_keys import add_key, by_key
from command_line import Commands, call
from job_fixtures import Place, is_webp
from queue_calls import result_of, status_of, submit, until
from servers import serving, settings_in

from server.db.database import Database
from server.models import JobError


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    return Commands(capsys, str(tmp_path / "data"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """The tables of a server that is stopped."""
    place = Place(tmp_path / "data")
    yield place
    place.database.close()


def listed(run: Commands, *options: str) -> dict[str, Any]:
    """The jobs that the list has, by their ids."""
    return {job["id"]: job for job in json.loads(run("jobs", "list", "--json", *options))}


def videos(folder: Path) -> list[Path]:
    files = (folder / "data" / "files").glob("*/*")
    named = (file for file in files if not file.name.startswith(("image-", "pixels-")))
    return [file for file in named if not is_webp(file)]


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
        assert rows[3].endswith("The picture is too large.")


async def test_show_tells_all_that_is_known(tmp_path: Path, run: Commands) -> None:
    async with serving(settings_in(tmp_path)) as client:
        job = await submit(client, "a red car", seed=7)
        await until(client, job, "COMPLETED")
        text = run("jobs", "show", job)
        assert f"id         {job}" in text.splitlines()
        assert "state      succeeded" in text.splitlines()
        made_with = "device scripted cpu, attention scripted, kernels plain, script 1"
        assert f"made with  {made_with}" in text.splitlines()
        assert f"Made with {made_with}" in text
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
        assert run("jobs", "purge", "--older-than-days", "0", "--yes") == "Removed 1.\n"
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


def test_a_job_whose_webhook_is_still_to_be_sent_is_not_purged(place: Place, run: Commands) -> None:
    place.made("told-later", webhook_url="https://example.com/hook")
    assert run("jobs", "purge", "--older-than-days", "0") == "Removed 0.\n"
    assert list(listed(run)) == ["told-later"]


async def test_jobs_are_shown_and_removed_by_the_labels_of_their_keys(
    tmp_path: Path, run: Commands
) -> None:
    settings = settings_in(tmp_path, auth="on")
    mine, yours = add_key(settings, "mine"), add_key(settings, "yours")
    async with serving(settings) as client:
        client.headers.update(by_key(mine))
        first, failed = await submit(client), await submit(client, "refuse")
        for job in (first, failed):
            await until(client, job, "COMPLETED")
        client.headers.update(by_key(yours))
        other = await submit(client)
        await until(client, other, "COMPLETED")

        assert [row.split()[4] for row in run("jobs", "list").splitlines()[1:]] == [
            *("yours", "mine", "mine")
        ]
        assert "key        yours" in run("jobs", "show", other).splitlines()
        assert [job["key"] for job in listed(run, "--key", "yours").values()] == ["yours"]
        assert list(listed(run, "--key", mine.partition(":")[0])) == [failed, first]
        assert "There is no key 'nobody'" in run.fails("jobs", "list", "--key", "nobody")

        preview = run("jobs", "purge", "--key", "mine", "--dry-run")
        assert [row.split()[0] for row in preview.splitlines()[1:-1]] == [failed, first]
        assert preview.endswith("This would remove 2 jobs, videos included.\n")
        assert len(listed(run)) == 3
        assert run("jobs", "purge", "--key", "mine", "--older-than-days", "1") == "Removed 0.\n"
        assert run("jobs", "purge", "--key", "mine", "--yes") == "Removed 2.\n"
        assert list(listed(run)) == [other]
        assert len(videos(tmp_path)) == 1


def test_jobs_and_videos_are_counted_for_each_key(
    place: Place, tmp_path: Path, run: Commands
) -> None:
    settings = settings_in(tmp_path)
    key_id = add_key(settings, "laptop").partition(":")[0]
    for number in range(2):
        place.made(f"made {number}", key_id=key_id)
    place.submit("cancelled", key_id=key_id)
    place.store.request_cancel("cancelled")
    place.submit("failed", error=JobError(422, {"detail": []}))
    place.submit("runs")
    place.claim()
    place.submit("waits", key_id="of the settings")

    header, *rows = [row.split("  ") for row in run("jobs", "totals").splitlines()]
    assert " ".join(header).split() == [
        *("KEY", "WAITING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "VIDEOS", "SIZE")
    ]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert cells[-1] == ["all", "1", "1", "2", "1", "1", "2", "10 B"]
    assert sorted(cells[:-1]) == [
        ["-", "0", "1", "0", "1", "0", "0", "0 B"],
        ["laptop", "0", "0", "2", "0", "1", "2", "10 B"],
        ["of the settings", "1", "0", "0", "0", "0", "0", "0 B"],
    ]
    totals = {each["key"]: each for each in json.loads(run("jobs", "totals", "--json"))}
    assert totals["laptop"]["video_bytes"] == 10


def test_a_list_that_is_cut_says_so_beside_it(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        place.submit(str(number))
    data = ("--data", str(tmp_path / "data"))
    code, out, err = call(capsys, "jobs", "list", "--limit", "2", *data)
    assert (code, len(out.splitlines())) == (0, 3)
    assert err == "The latest 2 of 3; --limit shows more.\n"


@pytest.mark.parametrize("answer", [True, False])
def test_a_purge_of_many_asks_first(
    place: Place, run: Commands, monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    place.made("old")
    asked: list[str] = []

    def ask(question: str, **_: Any) -> bool:
        asked.append(question)
        return answer

    everything = ("jobs", "purge", "--older-than-days", "0")
    assert "say --yes" in run.fails(*everything, code=2)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", ask)
    if answer:
        assert run(*everything) == "Removed 1.\n"
    else:
        assert run.fails(*everything) == "Nothing was removed."
    assert asked == ["Remove 1 job, videos included?"]
    assert len(listed(run)) == (0 if answer else 1)


def test_what_cannot_be_done_is_said(tmp_path: Path, run: Commands) -> None:
    Database(tmp_path / "data" / "jobs.sqlite3").close()
    for command in ("show", "cancel"):
        assert "There is no job 'nobody'" in run.fails("jobs", command, "nobody")
    for options in ((), ("id", "--key", "mine"), ("id", "--older-than-days", "1")):
        assert "either the ids of jobs, or" in run.fails("jobs", "purge", *options, code=2)
