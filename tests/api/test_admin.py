"""What operators see and do of the requests of all keys."""

from pathlib import Path

import httpx
import pytest
from api_keys import add_key, by_key
from queue_calls import submit, until, until_prepared
from servers import serving, settings_in

from server.keys import Scope

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def jobs(client: httpx.AsyncClient) -> list[tuple[str, str]]:
    found = (await client.get("/admin/jobs")).json()["jobs"]
    return [(each["request_id"], each["status"]) for each in found]


async def test_what_runs_comes_first_and_then_what_waits_in_its_order(
    client: httpx.AsyncClient,
) -> None:
    running = await submit(client, "wait 1")
    await until(client, running, "IN_PROGRESS")
    first, second = [await submit(client) for _ in range(2)]
    await until_prepared(client, first, second)

    assert await jobs(client) == [
        (running, "IN_PROGRESS"),
        (first, "IN_QUEUE"),
        (second, "IN_QUEUE"),
    ]
    shown = (await client.get("/admin/jobs")).json()["jobs"][0]
    assert (shown["slot"], shown["key_id"], shown["priority"]) == ("cpu", None, 0)

    # What waits goes first: it would begin, and be done in a moment.
    for job in (second, first, running):
        assert (await client.put(f"/admin/jobs/{job}/cancel")).status_code == 202
        await until(client, job, "COMPLETED")
    assert await jobs(client) == []
    assert (await client.put(f"/admin/jobs/{running}/cancel")).json() == {
        "status": "ALREADY_COMPLETED"
    }
    assert (await client.put("/admin/jobs/nothing/cancel")).status_code == 404


async def test_a_worker_s_checkpoint_is_told(client: httpx.AsyncClient) -> None:
    (slot,) = (await client.get("/admin/slots")).json()["slots"]
    assert slot["checkpoint_digest"] == "d1" * 32
    assert (slot["name"], slot["versions"], slot["memory_shortages"]) == ("cpu", {"script": "1"}, 0)


async def test_it_takes_the_scope_admin(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    caller, admin = add_key(settings), add_key(settings, scopes=frozenset({Scope.ADMIN}))
    async with serving(settings) as client:
        for path in ("/admin/jobs", "/admin/slots", "/admin/doctor"):
            refused = await client.get(path, headers=by_key(caller))
            assert (refused.status_code, "admin" in refused.json()["detail"]) == (403, True)
        stop = await client.put("/admin/jobs/a/cancel", headers=by_key(caller))
        assert stop.status_code == 403
        for path in ("/admin/jobs", "/admin/slots"):
            assert (await client.get(path, headers=by_key(admin))).status_code == 200
