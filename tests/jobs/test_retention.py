"""How long jobs, videos and uploads are kept where the server is told; what goes, goes whole."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from asgi_calls import app_of
from job_fixtures import FAILURE, Place, sql
from queue_calls import result_of, status_of, submit, until
from servers import APP, serving, settings_in
from upload_calls import upload

from server.api.dependencies import Services
from server.config.errors import SettingsError
from server.config.settings import DAY_S, Settings
from server.errors import UnknownFile, UnknownJob
from server.files.access import READ_ALL, FileAccess
from server.files.public import PublicFiles
from server.jobs.retention import Purge, purge
from server.models import LogLine, RunUpdate

HOOK = "https://example.com/hook"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Keeps things for three days."""
    place = Place(tmp_path, keep_s=3 * DAY_S)
    yield place
    place.database.close()


def counts(place: Place) -> dict[str, int]:
    """Rows by table, and files."""
    tables = ("jobs", "artifacts", "logs", "progress", "webhooks")
    rows = {name: place.rows(f"SELECT count(*) FROM {name}")[0][0] for name in tables}
    return {**rows, "files": len(list(place.files.ids()))}


def nothing(place: Place) -> bool:
    return not any(counts(place).values())


def sent(place: Place) -> None:
    """Every webhook has been sent."""
    sql(place.where, "UPDATE webhooks SET delivered_at = 1.0, not_before = NULL")


def test_after_its_days_a_job_goes_with_all_that_hangs_on_it(place: Place) -> None:
    place.submit("a", webhook_url=HOOK)
    run = place.claim()
    place.store.record([RunUpdate("a", run.attempt, [LogLine(1.0, "INFO", "Denoising")])])
    place.finish(run)
    sent(place)
    place.clock.now += 3 * DAY_S - 1
    place.retention.sweep()
    assert place.store.job("a").done
    assert counts(place) == {
        "jobs": 1, "artifacts": 1, "logs": 1, "progress": 0, "webhooks": 1, "files": 1
    }  # fmt: skip
    assert place.was_told == 0

    place.clock.now += 1
    place.retention.sweep()

    assert nothing(place)
    assert place.was_told == 1
    with pytest.raises(UnknownJob):
        place.store.standing("a")


def test_the_days_are_counted_from_the_end(place: Place) -> None:
    place.submit("waits")
    place.submit("runs", priority=1)
    run = place.claim()
    place.clock.now += 30 * DAY_S
    place.retention.sweep()
    place.finish(run)
    place.clock.now += 2 * DAY_S
    place.retention.sweep()

    assert place.store.job("runs").done
    assert not place.store.job("waits").done


def test_what_failed_or_was_cancelled_goes_as_well(place: Place) -> None:
    for job in ("fails", "cancelled"):
        place.submit(job)
    place.store.finish("fails", place.claim().attempt, error=FAILURE)
    place.store.request_cancel("cancelled")
    place.clock.now += 3 * DAY_S
    place.retention.sweep()

    assert nothing(place)


@pytest.mark.parametrize("column", ["finished_at", "expires_at"])
def test_a_webhook_that_is_still_to_be_sent_holds_its_job(place: Place, column: str) -> None:
    _, video = place.made("a", webhook_url=HOOK, store_io=column == "finished_at")
    place.clock.now += 3 * DAY_S
    place.retention.sweep()
    assert place.rows("SELECT id FROM jobs") == [("a",)]
    assert place.files.read(video.id) == b"video"

    sent(place)
    place.retention.sweep()
    assert nothing(place)


def test_a_video_that_outlived_its_job_goes_when_its_days_are_over(place: Place) -> None:
    _, video = place.made("a", store_io=False)
    place.clock.now += DAY_S
    place.retention.sweep()
    assert place.rows("SELECT id, job_id FROM artifacts") == [(video.id, None)]
    place.clock.now += 2 * DAY_S - 1
    place.retention.sweep()
    assert place.files.read(video.id) == b"video"

    place.clock.now += 1
    place.retention.sweep()
    assert nothing(place)


@pytest.mark.parametrize("is_written", [True, False])
def test_a_video_that_outlived_its_job_belongs_to_its_key(place: Place, is_written: bool) -> None:
    place.made("a", key_id="mine", store_io=False)
    assert place.rows("SELECT key_id FROM artifacts") == [("mine",)]
    if not is_written:
        # An earlier release left it to the job.
        sql(place.where, "UPDATE artifacts SET key_id = NULL")
    place.clock.now += DAY_S
    place.retention.sweep()

    assert place.rows("SELECT id FROM jobs") == []
    assert place.rows("SELECT job_id, key_id FROM artifacts") == [(None, "mine")]


def test_more_jobs_than_one_transaction_removes_all_go(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.jobs.retention.BATCH", 2)
    for number in range(5):
        place.made(str(number), store_io=number != 1)
    place.clock.now += DAY_S
    place.retention.sweep()
    assert (
        sorted(purge(place.database, place.files, Purge(ended_before=place.clock.now - 1e6))) == []
    )
    assert len(place.rows("SELECT id FROM jobs")) == 4
    place.clock.now += 2 * DAY_S
    for number in range(5, 10):
        place.made(str(number))
    assert purge(place.database, place.files, Purge(job_ids=["5", "6", "7"])) == ["5", "6", "7"]
    place.retention.sweep()

    assert place.rows("SELECT id FROM jobs ORDER BY id") == [("8",), ("9",)]
    assert counts(place)["files"] == 2
    assert sorted(purge(place.database, place.files, Purge(ended_before=place.clock.now))) == [
        "8",
        "9",
    ]
    assert nothing(place)


def test_a_removal_that_is_cut_short_leaves_no_unknown_file_and_serves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, video = place.made("a")
    place.clock.now += 3 * DAY_S

    def die(*_: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(place.files, "try_remove", die)
        with pytest.raises(KeyboardInterrupt):
            place.retention.sweep()
    assert counts(place) == dict.fromkeys(counts(place), 0) | {"artifacts": 1, "files": 1}
    with pytest.raises(UnknownFile):
        PublicFiles(place.database, access=FileAccess()).find(video.id, video.name, READ_ALL)

    place.retention.sweep()
    assert nothing(place)


def test_a_file_that_cannot_be_removed_holds_up_no_other(place: Place) -> None:
    videos = [place.made(str(number))[1] for number in range(3)]
    stays = place.folder.path(videos[0].id)
    stays.unlink()
    # A folder cannot be unlinked.
    stays.mkdir()
    place.clock.now += 3 * DAY_S
    with pytest.raises(OSError, match=stays.name):
        place.retention.sweep()
    assert place.rows("SELECT id FROM artifacts") == [(stays.name,)]
    assert list(place.files.ids()) == [stays.name]

    stays.rmdir()
    place.retention.sweep()
    assert nothing(place)


def test_where_the_server_is_not_told_nothing_goes(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.made("a")
    place.made("b", store_io=False)
    place.clock.now += 1e9
    place.retention.sweep()
    place.clock.now += 1e9
    place.retention.sweep()

    assert (counts(place)["jobs"], counts(place)["files"]) == (1, 2)
    place.database.close()


@pytest.mark.parametrize("days", ["0", "-1", "nan", "inf", "soon"])
def test_days_that_cannot_be_kept_are_refused(days: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSMOS_KEEP_DAYS", days)
    with pytest.raises(SettingsError, match="COSMOS_KEEP_DAYS="):
        Settings.load(weights="w")
    monkeypatch.setenv("COSMOS_KEEP_DAYS", "0.5")
    assert Settings.load(weights="w").keep_s == DAY_S / 2


async def sweep(client: httpx.AsyncClient) -> None:
    services: Services = app_of(client).state.services
    await asyncio.to_thread(services.retention.sweep)
    await asyncio.to_thread(services.uploads.sweep)


async def test_over_http_what_is_gone_is_unknown(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, keep_days=2)
    async with serving(settings) as client:
        job, stays = await submit(client), await submit(client)
        video = (await result_of(client, job)).json()["video"]["url"]
        sent_file, new_file = await upload(client, b"x"), await upload(client, b"y")
        await until(client, stays, "COMPLETED")
        await sweep(client)
        assert (await client.get(httpx.URL(video).path)).status_code == 200
        file_id = httpx.URL(sent_file).path.split("/")[2]
        for table, column, old in (
            ("jobs", "finished_at", job),
            ("artifacts", "created_at", file_id),
        ):
            past = f"UPDATE {table} SET {column} = {column} - ? WHERE id = ?"
            sql(settings.data / "jobs.sqlite3", past, 2 * DAY_S, old)
        assert (await status_of(client, job)).status_code == 200
        await sweep(client)

        gone = [
            await status_of(client, job),
            await client.get(f"/queue/{APP}/requests/{job}"),
            await client.put(f"/queue/{APP}/requests/{job}/cancel"),
            await client.get(httpx.URL(video).path),
            await client.get(httpx.URL(sent_file).path),
        ]
        assert [answer.status_code for answer in gone] == [404] * 5
        assert (await result_of(client, stays)).status_code == 200
        assert (await client.get(httpx.URL(new_file).path)).content == b"y"
