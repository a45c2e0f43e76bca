"""What the servers of one database tell each other, and which of them leads."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path

import pytest
from job_fixtures import sql
from pydantic import SecretStr
from sqlalchemy import make_url

from server.config.settings import Settings
from server.db.database import Database
from server.db.peers import Peers

pytestmark = pytest.mark.cluster


class Peer:
    """A server that notes what it hears."""

    def __init__(self, database: Database, url: SecretStr, name: str) -> None:
        self.heard: Counter[str] = Counter()
        hear = {hint: partial(self.note, hint) for hint in ("submitted", "finished")}
        later = partial(self.note, "a later release")
        self.peers = Peers(database, url, owner=name, hear=hear, on_later_release=later)

    def note(self, what: str) -> None:
        self.heard[what] += 1

    async def until(self, what: str, times: int) -> None:
        while self.heard[what] < times:
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Peer"]:
        tasks = [asyncio.create_task(loop()) for loop in self.peers.loops().values()]
        try:
            # All it may have missed, once it listens.
            await self.until("submitted", 1)
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


LOSE_THE_LEADER = """
    SELECT pg_terminate_backend(pid) FROM pg_locks
    WHERE locktype = 'advisory' AND database = (
        SELECT oid FROM pg_database WHERE datname = current_database()
    )
"""


LOSE_ALL = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


async def until_leading(*peers: Peer) -> Peer:
    while not (leading := [each for each in peers if each.peers.leads()]):
        await asyncio.sleep(0.01)
    (only,) = leading
    return only


async def test_one_server_leads_and_another_takes_its_place(postgres_database: SecretStr) -> None:
    with closing(Database(postgres_database)) as database:
        peers = [Peer(database, postgres_database, name) for name in ("a", "b")]
        async with AsyncExitStack() as first, AsyncExitStack() as second:
            stacks = dict(zip(peers, (first, second), strict=True))
            for peer, stack in stacks.items():
                await stack.enter_async_context(peer.running())
            leading = await until_leading(*peers)
            await stacks[leading].aclose()
            assert await until_leading(*peers) is not leading


async def test_a_server_whose_connection_was_lost_takes_part_again(
    postgres_database: SecretStr,
) -> None:
    with closing(Database(postgres_database)) as database:
        async with Peer(database, postgres_database, "a").running() as peer:
            await until_leading(peer)
            sql(postgres_database, LOSE_THE_LEADER)
            await peer.until("submitted", 2)
            await until_leading(peer)


async def test_the_leader_is_the_same_after_all_have_lost_the_database(
    postgres_database: SecretStr,
) -> None:
    with closing(Database(postgres_database)) as database:
        one, other = (Peer(database, postgres_database, name) for name in ("a", "b"))
        async with one.running(), other.running():
            leading = await until_leading(one, other)
            for times in range(2, 6):
                sql(postgres_database, LOSE_ALL)
                await one.until("submitted", times)
                await other.until("submitted", times)
                assert await until_leading(one, other) is leading


async def test_a_server_that_leads_keeps_its_connection_though_it_is_outdated(
    postgres_database: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.db.peers.SILENT_S", 1)
    monkeypatch.setattr("server.db.peers.LOOK_S", 0.1)
    with closing(Database(postgres_database)) as database:
        async with Peer(database, postgres_database, "a").running() as peer:
            sql(postgres_database, "UPDATE alembic_version SET version_num = '9999'")
            await peer.until("a later release", 1)
            await asyncio.sleep(2)
            assert peer.heard["submitted"] == 1, "it was connected but once"
            sql(postgres_database, LOSE_THE_LEADER)
            await peer.until("submitted", 2)
            await until_leading(peer)
            await asyncio.sleep(0.3)
            assert peer.heard["a later release"] == 1


async def test_a_url_may_name_several_hosts(postgres_database: SecretStr) -> None:
    url = make_url(postgres_database.get_secret_value())
    assert url.host is not None
    several = url.set(host=None, port=None).update_query_pairs(
        [("host", "127.0.0.1:1"), ("host", f"{url.host}:{url.port}")]
    )
    named = SecretStr(several.render_as_string(hide_password=False))
    assert Settings.load(weights=Path("checkpoint"), database=named).database == named
    with closing(Database(named)) as database:
        async with Peer(database, named, "a").running() as peer:
            await until_leading(peer)


async def test_hints_reach_the_others_alone(postgres_database: SecretStr) -> None:
    with closing(Database(postgres_database)) as database:
        one, other = (Peer(database, postgres_database, name) for name in ("a", "b"))
        async with one.running(), other.running():
            one.peers.tell("finished")
            # What it hears first is that it may have missed something.
            await other.until("finished", 2)
            other.peers.tell("submitted")
            await one.until("submitted", 2)
            assert one.heard["finished"] == 1


async def test_tables_of_a_later_release_are_told_of_once(postgres_database: SecretStr) -> None:
    with closing(Database(postgres_database)) as database:
        async with Peer(database, postgres_database, "a").running() as peer:
            sql(postgres_database, "UPDATE alembic_version SET version_num = '9999'")
            await peer.until("a later release", 1)
