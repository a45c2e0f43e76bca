"""What Prometheus reads: numbers that are right, and nothing of a caller's."""

import asyncio
from pathlib import Path

from api_keys import add_key, by_key
from http_sites import Site, answer, running
from job_fixtures import sql
from queue_calls import SUBMIT, cancel, result_of, submit, until
from scrapes import scrape
from servers import request_of, serving, settings_in

from server.api.metrics import outcome_of
from server.keys import Scope
from server.models import CANCELLED, TOO_LATE, JobError

SECRET = "a prompt that nobody else may read"


async def test_the_queue_and_the_slots_are_counted(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        running = await submit(client, "sleep 3600")
        await until(client, running, "IN_PROGRESS")
        before = await scrape(client)
        assert before.number("cosmos_oldest_waiting_seconds") == 0
        await submit(client)
        await submit(client)
        now = await scrape(client)
        assert now.number("cosmos_jobs_waiting") == 2
        assert now.number("cosmos_jobs_running") == 1
        assert (now.number("cosmos_oldest_waiting_seconds") or 0) > 0
        assert now.number("cosmos_slots", {"state": "busy"}) == 1
        assert now.number("cosmos_slots", {"state": "idle"}) == 0
        slot = {"slot": "cpu", "device": "cpu", "device_name": "scripted cpu"}
        slot |= {"attention": "scripted", "memory": "resident", "kernels": "plain"}
        assert now.number("cosmos_slot_info", slot) == 1
        assert now.number("cosmos_memory_shortages_total", {"slot": "cpu"}) == 0


async def test_each_job_that_ends_counts_once_by_its_outcome(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        for prompt in ("a red car", "a blue car", "refuse", "noartifact"):
            await result_of(client, await submit(client, prompt))
        stopped = await submit(client, "sleep 3600")
        await until(client, stopped, "IN_PROGRESS")
        await cancel(client, stopped)
        await result_of(client, stopped)
        for _ in range(2):
            now = await scrape(client)
            outcomes = {"succeeded": 2, "invalid_input": 1, "cancelled": 1}
            outcomes["runner_incomplete_response"] = 1
            for outcome, count in outcomes.items():
                labels = {"outcome": outcome}
                assert now.number("cosmos_jobs_finished_total", labels) == count
            assert now.number("cosmos_stage_seconds_count", {"stage": "denoise"}) == 2


async def test_jobs_that_ended_before_the_start_do_not_count(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        await result_of(client, await submit(client))
    async with serving(settings) as client:
        outcome = {"outcome": "succeeded"}
        assert (await scrape(client)).number("cosmos_jobs_finished_total", outcome) is None


async def test_an_end_in_the_future_hides_no_other(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    outcome = {"outcome": "succeeded"}
    async with serving(settings) as client:
        ahead = await submit(client)
        await result_of(client, ahead)
        database = settings.data / "jobs.sqlite3"
        sql(database, f"UPDATE jobs SET finished_at = finished_at + 3600 WHERE id = '{ahead}'")
        for count in (1, 2):
            await result_of(client, await submit(client))
            now = await scrape(client)
            assert now.number("cosmos_jobs_finished_total", outcome) == count


async def test_each_try_to_send_a_webhook_counts(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, fetch_allow_nets="127.0.0.0/8")
    delivered, failed = {"outcome": "delivered"}, {"outcome": "failed"}
    tries = "cosmos_webhook_tries_total"
    async with serving(settings) as client:
        async for site in running(Site(answers={"/hook": answer()}), None):
            for path in ("/hook", "/nothing-there"):
                params = {"fal_webhook": site.url(path)}
                await client.post(SUBMIT, params=params, json=request_of())
            while (now := await scrape(client)).number(tries, failed) is None:
                await asyncio.sleep(0.05)
            while (now := await scrape(client)).number(tries, delivered) is None:
                await asyncio.sleep(0.05)
            assert (now.number(tries, delivered), now.number(tries, failed)) == (1, 1)


def test_every_end_has_one_word() -> None:
    assert outcome_of(None) == "succeeded"
    assert outcome_of(CANCELLED) == "cancelled"
    assert outcome_of(TOO_LATE) == "request_timeout"
    assert outcome_of(JobError(422, {"detail": [{"type": "missing"}]})) == "invalid_input"


async def test_no_label_holds_what_a_caller_sent(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    key = add_key(settings, scopes=frozenset(Scope))
    async with serving(settings) as client:
        client.headers.update(by_key(key))
        job = await submit(client, SECRET)
        await result_of(client, job)
        text = (await scrape(client)).text
        for part in (SECRET, job, *key.split(":"), "://"):
            assert part not in text


async def test_where_keys_are_asked_for_it_takes_the_scope_admin(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    plain = add_key(settings)
    admin = add_key(settings, scopes=frozenset({Scope.ADMIN}))
    async with serving(settings) as client:
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers=by_key(plain))).status_code == 403
        assert (await client.get("/metrics", headers=by_key(admin))).status_code == 200
