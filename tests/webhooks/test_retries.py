"""The outbox: what is due, who may send it, and what becomes of webhooks that are not taken."""

import asyncio
import errno
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from http_sites import LOOPBACK, NAME, NO_ROOTS, Site, answer, fetcher, redirect, resolving, running
from job_fixtures import (
    INVALID,
    Where,
    artifact,
    files_beside,
    let_leases_lapse,
    new_job,
    sql,
    submit,
)
from receivers import hang, hooks_at, in_turn, until, until_hooked, verifies
from sqlalchemy import update
from structlog.testing import capture_logs

from server.db import tables
from server.db.database import Database
from server.disk import TABLES_LOCKED
from server.errors import Shortage
from server.files.links import FileLinks
from server.jobs.store import JobStore
from server.models import Job, StoredArtifact
from server.outbound.fetch import Fetcher
from server.tasks import Signals
from server.webhooks.body import MAX_INLINE_BYTES, webhook_body
from server.webhooks.sender import AT_ONCE, MAX_TRIES, TRY_S, Webhooks, wait_s
from server.webhooks.signing import SigningKey
from server.webhooks.store import WebhookAttempt, WebhookStore

START = 1_700_000_000.0
OK, DOWN = answer(), answer(b"a long story", status="500 Internal Server Error")


@dataclass
class Outbox:
    """A data folder whose jobs end at once, and what is needed to send their webhooks."""

    folder: Path
    where: Where
    database: Database
    now: float = START

    def __post_init__(self) -> None:
        self.jobs = JobStore(self.database, owner="a server", now=lambda: self.now)
        self.files = files_beside(self.where, self.folder)
        self.key = SigningKey.in_folder(self.folder)
        self.signals = Signals()

    def store(self, owner: str = "a server") -> WebhookStore:
        return WebhookStore(self.database, owner=owner, now=lambda: self.now)

    def end_job(self, job_id: str, url: str, key_id: str | None = None) -> None:
        """Commit a job that has failed, and so its webhook."""
        self.jobs.submit(
            new_job(job_id, webhook_url=url, key_id=key_id, error=INVALID), queue_limit=1
        )
        self.signals.finished.notify()

    def finish_job(self, job_id: str, url: str, video: StoredArtifact, *, sync_mode: bool) -> None:
        """Commit a job that has succeeded, with a video whose file is not there."""
        wanted = {"media": {}, "sync_mode": sync_mode}
        submit(self.jobs, job_id, webhook_url=url, input=wanted)
        result = {"video": {"artifact": video.id}, "seed": 3}
        self.jobs.claim("cpu")
        assert self.jobs.finish(job_id, 1, result=result, artifacts=[video])

    def claim(self, owner: str = "a server", **only: Any) -> WebhookAttempt:
        attempt = self.store(owner).claim(**only)
        assert attempt is not None
        return attempt

    def wait(self, seconds: float) -> None:
        """Let the time pass."""
        self.now += seconds
        self.signals.finished.notify()

    def rows(self, columns: str) -> list[tuple[Any, ...]]:
        return sql(self.where, f"SELECT {columns} FROM webhooks ORDER BY id")

    def body_of(self, job: Job) -> bytes:
        return webhook_body(job, self.jobs, self.files, FileLinks())

    async def until_rows(self, columns: str, wanted: list[tuple[Any, ...]]) -> None:
        """Wait until these columns of the table of webhooks hold this."""
        await until(lambda: self.rows(columns) == wanted)

    @asynccontextmanager
    async def sending(self, through: Fetcher | None = None) -> AsyncIterator[Webhooks]:
        """Send what is due meanwhile; without chance, a wait is as long as it is in the middle."""
        webhooks = Webhooks(
            webhooks=self.store(),
            jobs=self.jobs,
            body_of=self.body_of,
            fetcher=through or fetcher(),
            key=self.key,
            signals=self.signals,
            now=lambda: self.now,
            jitter=lambda: 0.5,
        )
        loop = asyncio.create_task(webhooks.run())
        try:
            yield webhooks
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            await webhooks.close()


@pytest.fixture
def outbox(tmp_path: Path, where: Where) -> Iterator[Outbox]:
    with closing(Database(where)) as database:
        yield Outbox(tmp_path, where, database)


@pytest.fixture
async def receiver() -> AsyncIterator[Site]:
    async for site in running(Site(answers={"/hook": OK}), None):
        yield site


async def test_one_that_was_not_taken_is_sent_again_with_a_fresh_timestamp(
    outbox: Outbox, receiver: Site
) -> None:
    receiver.answers["/hook"] = in_turn(DOWN, OK)
    outbox.end_job("a", receiver.url("/hook"))

    async with outbox.sending():
        await outbox.until_rows("tries, not_before", [(1, START + 10)])
        outbox.wait(9.5)
        assert outbox.store().claim() is None, "it is not due before its time"
        outbox.wait(0.5)
        first, second = await until_hooked(receiver, 2)
        await outbox.until_rows("tries, delivered_at", [(2, START + 10)])

    assert first.body == second.body
    times = [hook.headers["x-fal-webhook-timestamp"] for hook in (first, second)]
    assert times == ["1700000000", "1700000010"]
    assert first.headers["x-fal-webhook-user-id"] == "anonymous"
    for hook, at in ((first, START), (second, START + 10)):
        assert verifies(hook, outbox.key.key_set(), at)


async def test_after_the_tenth_try_it_is_given_up(outbox: Outbox, receiver: Site) -> None:
    receiver.answers["/hook?token=secret"] = DOWN
    outbox.end_job("a", receiver.url("/hook?token=secret"))

    with capture_logs() as logs:
        async with outbox.sending():
            for tries in range(1, MAX_TRIES + 1):
                await outbox.until_rows("tries, claimed_by", [(tries, None)])
                outbox.wait(7200)

    (row,) = outbox.rows("tries, not_before, delivered_at, given_up_at, last_error")
    assert row[:3] == (10, None, None)
    assert row[3] == START + 9 * 7200
    assert row[4] == f"127.0.0.1:{receiver.port} answers with status 500; 200 to 299 is wanted."
    assert len(hooks_at(receiver)) == 10
    assert [log["log_level"] for log in logs] == ["warning"] * 9 + ["error"]
    assert "secret" not in str(logs), "the query of a URL may be a secret"


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_ten_tries_take_less_than_two_hours(chance: float) -> None:
    waits = [wait_s(tries, lambda: chance) for tries in range(1, MAX_TRIES)]

    assert sum(waits) + MAX_TRIES * TRY_S < 2 * 3600
    assert waits == sorted(waits)
    assert waits[0] == 10 * (0.75 + chance / 2)
    assert waits[-1] == waits[0] * 2**8


@pytest.mark.parametrize("status", ["199", "301 x", "302 x", "307 x", "404 x", "410 x", "503 x"])
async def test_whatever_is_no_success_is_a_failure(
    outbox: Outbox, receiver: Site, status: str
) -> None:
    if status == "199":
        # Not a final answer: a receiver that then hangs up has given none.
        receiver.answers["/hook"] = b"HTTP/1.1 199 x\r\n\r\n"
    else:
        receiver.answers["/hook"] = redirect("/other", status)
    outbox.end_job("a", receiver.url("/hook"))

    async with outbox.sending():
        await outbox.until_rows("tries, not_before", [(1, START + 10)])

    assert [hook.target for hook in hooks_at(receiver)] == ["/hook"]


@pytest.mark.parametrize("at_first", [[], ["10.0.0.1"]], ids=["no address", "private"])
async def test_a_name_that_leads_nowhere_yet_is_tried_again(
    outbox: Outbox, receiver: Site, at_first: list[str]
) -> None:
    changing = Fetcher(
        allow_nets=LOOPBACK, ssl_context=NO_ROOTS, resolve=resolving(at_first, ["127.0.0.1"])
    )
    async with outbox.sending(changing) as webhooks:
        url = webhooks.check(receiver.url("/hook", NAME))
        outbox.end_job("a", url)
        await outbox.until_rows("tries, not_before", [(1, START + 10)])
        assert hooks_at(receiver) == []
        assert f"does not connect to {NAME}" in outbox.rows("last_error")[0][0]

        outbox.wait(10)
        await until_hooked(receiver)


async def test_a_receiver_that_hangs_does_not_delay_others(outbox: Outbox, receiver: Site) -> None:
    async for silent in running(Site(answers={"/hook": hang}), None):
        for number in range(AT_ONCE + 1):
            outbox.end_job(f"silent {number}", silent.url("/hook"))
        outbox.end_job("a", receiver.url("/hook"))

        async with outbox.sending():
            (hook,) = await until_hooked(receiver)

        assert hook.json()["request_id"] == "a"
        assert outbox.rows("delivered_at")[:-1] == [(None,)] * (AT_ONCE + 1)


async def test_receivers_that_hang_leave_room_for_those_of_other_keys(
    outbox: Outbox, receiver: Site
) -> None:
    async for silent in running(Site(answers={"/hook": hang}), None):
        for number in range(AT_ONCE + 2):
            # Each is another receiver.
            url = silent.url("/hook", f"receiver-{number}.example")
            outbox.end_job(f"mine {number}", url, "mine")
        outbox.end_job("yours", receiver.url("/hook"), "yours")

        async with outbox.sending(fetcher(["127.0.0.1"])):
            (hook,) = await until_hooked(receiver)
            await until_hooked(silent, AT_ONCE - 1)
            outbox.signals.finished.notify()

        assert hook.json()["request_id"] == "yours"
        assert outbox.rows("tries")[:-1].count((1,)) == AT_ONCE - 1


def test_keys_take_turns(outbox: Outbox) -> None:
    for number, key_id in enumerate(["a", "a", "a", "b", None]):
        outbox.end_job(str(number), f"https://{number}.example/", key_id)
    store, in_hand = outbox.store(), Counter[str | None]()

    while taken := store.claim(3, in_hand):
        in_hand[taken.key_id] += 1

    assert list(in_hand.items()) == [("a", 2), ("b", 1), (None, 1)]


async def test_so_many_and_no_more_are_sent_at_once(outbox: Outbox, receiver: Site) -> None:
    release = asyncio.Event()

    async def answers_when_told(writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(OK)

    receiver.answers["/hook"] = answers_when_told
    for number in range(AT_ONCE + 3):
        outbox.end_job(str(number), receiver.url("/hook", f"receiver-{number}.example"))

    async with outbox.sending(fetcher(["127.0.0.1"])):
        await until_hooked(receiver, AT_ONCE)
        assert outbox.rows("tries").count((1,)) == AT_ONCE
        release.set()
        await until_hooked(receiver, AT_ONCE + 3)


async def test_all_are_sent_when_there_are_more_than_are_sent_at_once(
    outbox: Outbox, receiver: Site
) -> None:
    count = 2 * AT_ONCE
    for number in range(count):
        outbox.end_job(str(number), receiver.url("/hook"))

    async with outbox.sending():
        while outbox.rows("delivered_at").count((START,)) < count:
            outbox.signals.finished.notify()
            await asyncio.sleep(0.01)

    told = {hook.json()["request_id"] for hook in hooks_at(receiver)}
    assert told == {str(number) for number in range(count)}


async def test_one_that_cannot_be_made_does_not_stop_the_others(
    outbox: Outbox, receiver: Site
) -> None:
    """Its video is to be sent along, and is gone from the disk."""
    outbox.finish_job("broken", receiver.url("/hook"), artifact("0123"), sync_mode=True)
    outbox.end_job("a", receiver.url("/hook"))

    with capture_logs() as logs:
        async with outbox.sending():
            await outbox.until_rows("claimed_by, tries", [(None, 1)] * 2)

    assert [hook.json()["request_id"] for hook in hooks_at(receiver)] == ["a"]
    assert outbox.rows("last_error, not_before")[0] == (
        "This server could not make the webhook.",
        START + 10,
    )
    assert logs[0]["log_level"] == "error"


async def test_the_webhook_of_a_job_that_is_no_longer_kept_is_given_up(
    outbox: Outbox, receiver: Site
) -> None:
    outbox.end_job("a", receiver.url("/hook"))
    with outbox.database.write() as db:
        db.execute(update(tables.jobs).values(expires_at=START))

    async with outbox.sending():
        await outbox.until_rows("given_up_at", [(START,)])

    assert outbox.rows("last_error") == [("The request is no longer kept.",)]
    assert hooks_at(receiver) == []


def test_a_video_that_is_too_large_for_a_webhook_is_left_to_the_queue(outbox: Outbox) -> None:
    large = artifact("4567", size=MAX_INLINE_BYTES + 1)
    outbox.finish_job("in it", "https://a.example/", large, sync_mode=True)
    outbox.finish_job("by url", "https://a.example/", large, sync_mode=False)

    body = outbox.body_of(outbox.jobs.job("in it")).decode()
    assert '"status":"OK","payload":null,"payload_error":"The video has 16,777,217 bytes' in body
    assert "payload_error" not in outbox.body_of(outbox.jobs.job("by url")).decode()


def test_the_longest_due_is_taken_first_and_by_one_alone(outbox: Outbox) -> None:
    outbox.end_job("a", "https://a.example/1")
    outbox.wait(1)
    outbox.end_job("b", "https://b.example/2")
    mine, other = outbox.store("a server"), outbox.store("another")

    assert mine.claim() == WebhookAttempt(1, "a", None, "https://a.example/1", "a.example", 1)
    assert other.claim() == WebhookAttempt(2, "b", None, "https://b.example/2", "b.example", 1)
    assert mine.claim() is None
    assert outbox.rows("claimed_by") == [("a server",), ("another",)]


def test_receivers_that_are_busy_are_passed_over(outbox: Outbox) -> None:
    outbox.end_job("a", "https://a.example:8443/")
    outbox.end_job("b", "https://b.example/")

    assert outbox.claim(besides=["a.example:8443"]).job_id == "b"


def test_what_a_process_that_died_had_taken_is_taken_after_its_lease(outbox: Outbox) -> None:
    outbox.end_job("a", "https://a.example/")
    dead, next_one = outbox.store("the dead"), outbox.store("the next")
    stale = outbox.claim("the dead")

    assert next_one.claim() is None
    let_leases_lapse(outbox.where)
    taken = outbox.claim("the next")
    assert taken.tries == 2

    # It was not dead, but asleep: what it has to say comes too late.
    dead.failed(stale, "too late", wait_s=0)
    assert outbox.rows("claimed_by, last_error") == [("the next", None)]
    next_one.delivered(taken)
    dead.given_up(stale, "too late")
    assert outbox.rows("given_up_at, last_error, claimed_by") == [(None, None, None)]


def test_what_a_server_that_is_gone_had_taken_is_due_at_the_next_start(outbox: Outbox) -> None:
    outbox.end_job("a", "https://a.example/")
    outbox.claim("the gone")

    if outbox.database.is_shared:
        # Others use the database: it may be one of them.
        outbox.store("the next").recover(longest_wait_s=7200)
        assert outbox.store("the next").claim() is None
        let_leases_lapse(outbox.where)
    outbox.store("the next").recover(longest_wait_s=7200)

    again = outbox.claim("the next")
    assert (again.job_id, again.tries) == ("a", 2)


def test_a_clock_that_was_put_back_before_a_start_delays_no_webhook(outbox: Outbox) -> None:
    outbox.end_job("a", "https://a.example/")
    store = outbox.store()
    delivery = store.claim()
    assert delivery is not None
    store.failed(delivery, "no", wait_s=10.0)

    outbox.now -= 400 * 86_400.0
    outbox.store("the next").recover(longest_wait_s=7200)

    assert store.claim() is not None


async def test_a_shortage_of_ours_is_no_try_of_the_receivers(
    outbox: Outbox, receiver: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    outbox.end_job("a", receiver.url("/hook"))
    async with outbox.sending():
        with monkeypatch.context() as short:
            short.setattr(anyio, "connect_tcp", refuse)
            await outbox.until_rows("tries, last_error", [(0, None)])
            for _ in range(MAX_TRIES + 1):
                await outbox.until_rows("tries, lease_until", [(0, None)])
                outbox.wait(3600.0)
        outbox.wait(3600.0)
        await until_hooked(receiver)
        await outbox.until_rows("tries, not_before", [(1, None)])


async def test_one_that_was_taken_is_not_sent_again_for_tables_that_are_locked(
    outbox: Outbox, receiver: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered, failures = WebhookStore.delivered, iter(range(3))

    def fail_first(*args: Any) -> None:
        if next(failures, None) is not None:
            raise Shortage(TABLES_LOCKED)
        delivered(*args)

    monkeypatch.setattr(WebhookStore, "delivered", fail_first)
    monkeypatch.setattr("server.tasks.TRY_AGAIN_S", 0.01)
    outbox.end_job("a", receiver.url("/hook"))
    async with outbox.sending():
        await outbox.until_rows("tries, delivered_at", [(1, START)])

    assert len(await until_hooked(receiver)) == 1
    assert next(failures, None) is None


def test_what_was_broken_off_is_due_again_at_once(outbox: Outbox) -> None:
    outbox.end_job("a", "https://a.example/")

    outbox.store().give_back(outbox.claim())

    assert outbox.claim().job_id == "a"
