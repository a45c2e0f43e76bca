"""Ready means that a video can be made now, and the body says what is missing."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from job_fixtures import Clock, Place
from pools import SLOT, local_pool, order, running
from servers import serving, settings_in

from server.api.readiness import Readiness
from server.db.database import Database
from server.disk import DiskSpace
from server.dispatch.drain import Drain
from server.tasks import Loops
from server.workers.pool import SlotUp


async def ready(client: httpx.AsyncClient) -> tuple[int, dict[str, Any]]:
    answer = await client.get("/health/ready")
    return answer.status_code, answer.json()


def problems(body: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["problem"] for check in body["checks"] if "problem" in check}


async def test_a_server_without_a_loaded_model_says_so_and_how_far_it_is(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, worker="workers:SlowLoad")
    loading = settings.weights / "loading"
    loading.touch()
    async with serving(settings) as client:
        status, body = await ready(client)
        assert (status, body["status"]) == (503, "not ready")
        assert problems(body) == {"worker": "No worker has loaded the model."}
        while (await ready(client))[1]["slots"][0]["loading"]["fraction"] != 0.25:
            pass
        loading.unlink()
        while (answer := await ready(client))[0] == 503:
            assert problems(answer[1]) == {"worker": "No worker has loaded the model."}
        assert answer[1]["status"] == "ready"
        names = [check["name"] for check in answer[1]["checks"]]
        assert names == ["worker", "guardrail", "database", "disk", "tasks", "draining"]


async def test_a_disk_below_the_watermark_is_named(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, min_free_disk_mib=10**9)) as client:
        status, body = await ready(client)
        assert status == 503
        assert "COSMOS_MIN_FREE_DISK_MIB wants 1,000,000,000" in problems(body)["disk"]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(tmp_path / "jobs.sqlite3")) as database:
        yield database


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Of one server: where others share the tables, their runs are not this one's."""
    place = Place(tmp_path)
    yield place
    place.database.close()


async def test_a_server_that_is_told_to_end_is_not_ready(
    tmp_path: Path, database: Database
) -> None:
    drain = Drain()
    async with running(local_pool()) as watched:
        await watched.until(SlotUp)
        readiness = Readiness(
            watched.pool, database, drain, DiskSpace(tmp_path, 0), Loops(), endpoints=[]
        )
        assert [check.problem for check in await readiness.checks()] == [None] * 6
        await drain.begin(1.0)
        assert [check.name for check in await readiness.checks() if check.problem] == ["draining"]


async def test_a_database_that_cannot_be_written_is_named(
    tmp_path: Path, database: Database
) -> None:
    database.close()
    for file in tmp_path.glob("jobs.sqlite3*"):
        file.write_bytes(b"a letter to my aunt" * 100)
    pool = local_pool()
    readiness = Readiness(pool, database, Drain(), DiskSpace(tmp_path, 0), Loops(), endpoints=[])
    found = {check.name: check.problem for check in await readiness.checks()}
    assert found["database"] is not None
    assert found["database"].startswith("The server's database is damaged.")
    assert found["disk"] is None


async def test_a_database_that_does_not_answer_is_named_before_probes_give_up(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, clock = DiskSpace(tmp_path, 0), Clock()
    readiness = Readiness(local_pool(), database, Drain(), disk, Loops(), endpoints=[], now=clock)

    async def problem() -> str | None:
        return next(each.problem for each in await readiness.checks() if each.name == "database")

    with database.write():
        monkeypatch.setattr("server.api.readiness._LOOK_S", 0.01)
        assert "has not answered" in str(await problem())
        clock.now += 1
        assert "has not answered" in str(await problem())
    clock.now += 1
    monkeypatch.setattr("server.api.readiness._LOOK_S", 60.0)
    assert await problem() is None


async def test_a_loop_that_does_not_run_is_named(tmp_path: Path, database: Database) -> None:
    async def fail() -> None:
        raise RuntimeError

    loops = Loops(first_wait_s=3600)
    readiness = Readiness(
        local_pool(), database, Drain(), DiskSpace(tmp_path, 0), loops, endpoints=[]
    )
    loops.start("sending webhooks", fail)
    while loops.problem() is None:
        await asyncio.sleep(0)
    found = {check.name: check.problem for check in await readiness.checks()}
    assert "sending webhooks" in str(found["tasks"])
    await loops.close()


async def test_what_no_run_has_is_named_after_a_minute(place: Place, tmp_path: Path) -> None:
    place.submit(job := "a job")
    place.claim()
    drain, disk, clock = Drain(), DiskSpace(tmp_path, 0), Clock()
    async with running(local_pool()) as watched:
        await watched.until(SlotUp)
        readiness = Readiness(
            watched.pool, place.database, drain, disk, Loops(), endpoints=[], now=clock
        )

        async def problem() -> str | None:
            return next(each.problem for each in await readiness.checks() if each.name == "tasks")

        async with watched.pool.run(SLOT, order("sleep 3600")):
            assert await problem() is None
            clock.now += 59
            assert await problem() is None
            clock.now += 1
            assert f"lost sight of the job {job}, the slot {SLOT}" in str(await problem())
            clock.now += 1
            with drain.run(SLOT, job):
                assert await problem() is None
