"""A paused queue accepts jobs and starts none, across restarts, until it is resumed."""

import asyncio
from pathlib import Path

import httpx
import pytest
from api_keys import add_key, by_key
from command_line import Commands
from queue_calls import result_of, status_of, submit, until
from servers import serving, settings_in

from server.keys import Scope


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    return Commands(capsys, str(tmp_path / "data"))


async def paused(client: httpx.AsyncClient) -> bool:
    return bool((await client.get("/admin/queue")).json()["paused"])


async def stays_in_the_queue(client: httpx.AsyncClient, job: str) -> None:
    """A worker is free, and the dispatcher has looked several times."""
    while (await client.get("/health/ready")).status_code != 200:
        await asyncio.sleep(0.02)
    for _ in range(10):
        await client.post("/admin/queue/pause")
        await asyncio.sleep(0.02)
        assert (await status_of(client, job)).json()["status"] == "IN_QUEUE"


async def test_the_running_job_goes_on_and_the_next_one_waits(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        running = await submit(client, "sleep 0.2")
        await until(client, running, "IN_PROGRESS")
        assert not await paused(client)
        answer = await client.post("/admin/queue/pause")
        assert (answer.status_code, answer.json()["paused"]) == (200, True)
        waiting = await submit(client)
        assert (await result_of(client, running)).status_code == 200
        await stays_in_the_queue(client, waiting)
        assert (await client.post("/admin/queue/resume")).json() == {
            "paused": False,
            "paused_since": None,
        }
        assert (await result_of(client, waiting)).status_code == 200


async def test_a_pause_outlives_the_server(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        since = (await client.post("/admin/queue/pause")).json()["paused_since"]
        job = await submit(client)
    async with serving(settings) as client:
        assert (await client.get("/admin/queue")).json()["paused_since"] == since
        await stays_in_the_queue(client, job)
        assert (await client.get("/admin/queue")).json()["paused_since"] == since


async def test_a_pause_is_seen_by_operators_and_by_those_who_wait(
    tmp_path: Path, run: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        ready = (await client.get("/health/ready")).json()
        assert ready["queue"] == {"paused": False, "paused_since": None}
        assert "The queue goes on." in run("queue", "status")
        await client.post("/admin/queue/pause")
        job = await submit(client)
        while not (status := (await status_of(client, job, logs="1")).json())["logs"]:
            await asyncio.sleep(0.02)
        assert "paused by the operator" in status["logs"][0]["message"]
        assert "paused since" in (said := run("queue", "status"))
        assert "1 waiting, 0 running." in said
    capsys.readouterr()
    async with serving(settings) as client:
        printed = capsys.readouterr()
        assert "The queue is paused" in printed.out + printed.err
        while (answer := await client.get("/health/ready")).status_code != 200:
            await asyncio.sleep(0.02)
        assert answer.json()["queue"]["paused"] is True


async def test_the_command_works_beside_a_running_server(tmp_path: Path, run: Commands) -> None:
    async with serving(settings_in(tmp_path)) as client:
        assert "is paused" in run("queue", "pause")
        assert await paused(client)
        job = await submit(client)
        await stays_in_the_queue(client, job)
        assert "goes on" in run("queue", "resume")
        assert (await result_of(client, job)).status_code == 200


async def test_it_takes_the_scope_admin(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    plain = by_key(add_key(settings))
    admin = by_key(add_key(settings, scopes=frozenset({Scope.ADMIN})))
    async with serving(settings) as client:
        for method, path in (("GET", ""), ("POST", "/pause"), ("POST", "/resume")):
            url = f"/admin/queue{path}"
            assert (await client.request(method, url)).status_code == 401
            assert (await client.request(method, url, headers=plain)).status_code == 403
            assert (await client.request(method, url, headers=admin)).status_code == 200
