"""The servers that share a database: what they tell each other, and which one leads.

Each has a connection of its own for both. A hint may be lost, and then the tables say the same a
second later. The one that leads in something has a lock of the database for it, which ends with its
connection.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

import structlog
from pydantic import SecretStr
from sqlalchemy import make_url

from server.db.database import Database
from server.db.postgres import CHANNEL, CONNECT_ARGS, LOCK_CLASS
from server.db.upgrade import LATEST
from server.tasks import log_errors

SENDS_AND_SWEEPS = "leader"
"""The lock of the server that sends webhooks and removes what is over."""

DISPATCHES = "dispatcher"
"""The lock of the server whose pool is the one of the Ray cluster."""

LOOK_S = 2.0
"""How often a server tries to lead, and looks for a later release."""

RETURN_S = 10.0
"""How long the server that led has to come back, if all have lost the database at the same time."""

SILENT_S = 20
"""A server that is stopped for so long leads no more: PostgreSQL ends its connection."""

if TYPE_CHECKING:
    from psycopg import AsyncConnection

_log = structlog.get_logger("server")


class Alone:
    """The one server of its database."""

    def leads(self, in_what: str = SENDS_AND_SWEEPS) -> bool:  # noqa: ARG002 - as of `Peers`
        """Whether this server does what one alone is to do."""
        return True

    def loops(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """What is to run as long as the server does."""
        return {}


class Peers:
    """This server among those of its database.

    `hear` has what to do at each hint of the others, in the order in which they are to be done if
    they come together. `on_later_release` is called when the tables have become those of one.
    `locks` are what this server would lead in.
    """

    def __init__(
        self,
        database: Database,
        url: SecretStr,
        *,
        owner: str,
        hear: Mapping[str, Callable[[], None]],
        on_later_release: Callable[[], None],
        locks: Collection[str] = (SENDS_AND_SWEEPS,),
    ) -> None:
        self._database = database
        address = make_url(url.get_secret_value())
        # As the pool's: libpq does not read SQLAlchemy's form of several hosts.
        args, options = address.get_dialect()().create_connect_args(address)
        self._connect_args = (args, {**options, **CONNECT_ARGS, "autocommit": True})
        self._owner = owner
        self._hear = hear
        self._on_later_release = on_later_release
        self._untold: set[str] = set()
        self._has_untold = asyncio.Event()
        self._locks = locks
        self._held: set[str] = set()
        self._left_to_others: set[str] = set()
        """What another server led in as the connection was lost."""
        self._is_outdated = False

    def leads(self, in_what: str = SENDS_AND_SWEEPS) -> bool:
        """Whether this server does what one alone is to do."""
        return in_what in self._held

    def tell(self, hint: str) -> None:
        """Give the others a hint soon; those that come meanwhile go with it."""
        self._untold.add(hint)
        self._has_untold.set()

    def loops(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """What is to run as long as the server does."""
        return {
            "hearing other servers": self.run,
            "telling other servers": self.keep_telling,
        }

    async def keep_telling(self) -> None:
        """Send hints until cancelled."""
        while True:
            await self._has_untold.wait()
            self._has_untold.clear()
            message = " ".join([self._owner, *self._untold])
            self._untold.clear()
            telling = asyncio.to_thread(self._database.notify, message)
            await log_errors("telling the other servers", telling)

    async def run(self) -> None:
        """Listen, and lead where no other server does, until cancelled."""
        # An extra.
        import psycopg

        while True:
            try:
                args, options = self._connect_args
                connection = await psycopg.AsyncConnection.connect(*args, **options)
                async with connection:
                    await self._take_part(connection)
            except psycopg.OperationalError as error:
                _log.warning("The connection to the other servers was lost", why=str(error))
            await asyncio.sleep(1.0)

    async def _take_part(self, connection: "AsyncConnection") -> None:
        await connection.execute(f"SET idle_session_timeout = '{SILENT_S}s'")
        await connection.execute(f"LISTEN {CHANNEL}")
        # What was said meanwhile is lost.
        for act in self._hear.values():
            act()
        connected_at = time.monotonic()
        try:
            while True:
                is_patient = time.monotonic() < connected_at + RETURN_S
                await self._lead(connection, but=self._left_to_others if is_patient else ())
                # In every round: a server that asks nothing counts as a stopped one.
                if await _revision(connection) > LATEST and not self._is_outdated:
                    self._is_outdated = True
                    self._on_later_release()
                async for notification in connection.notifies(timeout=LOOK_S):
                    self._take(notification.payload)
        finally:
            self._left_to_others = set(self._locks) - self._held
            self._held.clear()

    async def _lead(self, connection: "AsyncConnection", *, but: Collection[str]) -> None:
        """Lead in what no other server does."""
        for what in self._locks:
            if what in self._held or what in but:
                continue
            if await _try_to_lead(connection, what):
                _log.info("This server leads", in_what=what)
                self._held.add(what)

    def _take(self, message: str) -> None:
        owner, *hints = message.split()
        if owner == self._owner:
            return
        for hint, act in self._hear.items():
            if hint in hints:
                act()


async def _try_to_lead(connection: "AsyncConnection", what: str) -> bool:
    query = "SELECT pg_try_advisory_lock(%s, hashtext(%s))"
    row = await (await connection.execute(query, (LOCK_CLASS, what))).fetchone()
    return row == (True,)


async def _revision(connection: "AsyncConnection") -> str:
    rows = await connection.execute("SELECT version_num FROM alembic_version")
    row = await rows.fetchone()
    return "" if row is None else str(row[0])
