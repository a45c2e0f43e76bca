"""The clock that is set while a server runs: what waits, lasts or has an age does not see it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from job_fixtures import Clock as SetTime
from job_fixtures import Place
from queue_calls import SUBMIT, result_of, status_of, submit
from queue_calls import until as until_status
from receivers import until, webhook_rows
from servers import request_of, serving, settings_in
from structlog.testing import capture_logs

from server.config.settings import DAY_S
from server.jobs.clock import FOLLOWED_S, Clock

LOOPBACK = [ip_network("127.0.0.0/8")]
JUMPS = [400 * DAY_S, -400 * DAY_S]


class Machine:
    """A machine whose clock can be set."""

    def __init__(self) -> None:
        self.wall, self.uptime = SetTime(), SetTime()
        self.wall.now = 1_700_000_000.0
        self.clock = Clock(self.wall, self.uptime)

    def wait(self, seconds: float) -> None:
        self.wall.now += seconds
        self.uptime.now += seconds


@pytest.fixture
def machine() -> Iterator[Machine]:
    with capture_logs():
        yield Machine()


@pytest.mark.parametrize("jump", JUMPS)
def test_time_passes_evenly_when_the_clock_is_set(machine: Machine, jump: float) -> None:
    started = machine.clock.now()
    machine.wall.now += jump
    with capture_logs() as logs:
        for _ in range(3):
            machine.wait(10.0)
            machine.clock.follow()
    assert machine.clock.now() == started + 30.0
    assert [line["seconds"] for line in logs] == [jump]


def test_small_corrections_are_followed(machine: Machine) -> None:
    for _ in range(10):
        machine.wait(10.0)
        machine.wall.now -= FOLLOWED_S / 2
        machine.clock.follow()
        assert machine.clock.now() == machine.wall.now


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_server_whose_clock_is_set_ends_nothing_early_and_nothing_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    machine = Machine()
    monkeypatch.setattr("server.app.Clock", lambda: machine.clock)
    monkeypatch.setattr("server.sweeper.SWEEP_EVERY_S", 0.01)
    data = tmp_path / "data"

    def swept() -> bool:
        return rows(data, "SELECT at FROM heartbeat") == [(machine.clock.now(),)]

    settings = settings_in(tmp_path, keep_days=3, fetch_allow_nets=LOOPBACK)
    async with serving(settings) as client:
        # Nothing listens there.
        hook = {"fal_webhook": "http://127.0.0.1:9/"}
        told = (await client.post(SUBMIT, params=hook, json=request_of())).json()["request_id"]
        assert (await result_of(client, told)).status_code == 200
        await until(lambda: webhook_rows(data, "tries, lease_until") == [(1, None)])
        running = await submit(client, "sleep 0.5")
        await until_status(client, running, "IN_PROGRESS")
        await client.post("/admin/queue/pause")
        soon = {"x-fal-request-timeout": "3600"}
        late = (await client.post(SUBMIT, headers=soon, json=request_of())).json()["request_id"]

        machine.wall.now += jump
        machine.wait(60.0)

        await until(lambda: webhook_rows(data, "tries, lease_until") == [(2, None)])
        await until(swept)
        assert (await result_of(client, told)).status_code == 200
        assert (await result_of(client, running)).status_code == 200
        ended = (await status_of(client, running)).json()
        assert 60.0 <= ended["metrics"]["inference_time"] < 120.0
        assert (await status_of(client, late)).json()["status"] == "IN_QUEUE"

        machine.wait(3600.0)
        assert (await result_of(client, late)).status_code == 504


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_signed_url_lasts_its_time_when_the_clock_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    machine = Machine()
    monkeypatch.setattr("server.app.Clock", lambda: machine.clock)
    settings = settings_in(tmp_path, files_auth="signed", files_url_seconds=3600)
    async with serving(settings) as client:
        job = await submit(client)
        url = (await result_of(client, job)).json()["video"]["url"]
        machine.wall.now += jump
        assert (await result_of(client, job)).json()["video"]["url"] == url
        read = await client.get(url)
        assert read.status_code == 200
        assert read.headers["cache-control"] == "private, max-age=3600, immutable"
        machine.wait(3600.0)
        assert (await client.get(url)).status_code == 403


def rows(data: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(data / "jobs.sqlite3")) as db:
        return db.execute(query).fetchall()


def test_a_job_that_ended_before_it_began_took_no_time(place: Place) -> None:
    place.submit("a")
    run = place.claim()
    place.clock.now -= 100.0
    place.finish(run)
    assert place.store.job("a").inference_seconds == 0.0
