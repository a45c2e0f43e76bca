"""Every SQL statement about API keys, and the copy of them that requests are checked against."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict

from sqlalchemy import delete, insert, select, update

from server.db import tables
from server.db.database import Database
from server.db.rows import AnyRow
from server.keys import ApiKey, Scope
from server.tasks import log_errors, to_writer_thread

COPY_LIVES_S = 1.0
"""How long a new or revoked key may go unnoticed. Many callers poll ten times a second."""
USE_IS_NOTED_EVERY_S = 60.0


class UnknownKey(Exception):
    """There is no key of that id or label, or more than one; the message says so."""


class LabelInUse(Exception):
    """Another key that is not revoked has the label; the message says so."""


class KeyStore:
    """The table of keys. Every method blocks."""

    def __init__(self, database: Database, *, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now

    def add(self, key: ApiKey) -> None:
        """Keep a new key.

        Raises:
            LabelInUse: a key that is not revoked has its label.
        """
        row = asdict(key) | {"scopes": sorted(key.scopes)}
        keys = tables.keys.c
        namesake = select(keys.id).where(keys.name == key.name, keys.revoked_at.is_(None))
        with self._database.write() as db:
            self._database.take_turn(db, "keys")
            other = db.execute(namesake.limit(1)).scalar_one_or_none()
            if other is not None:
                raise LabelInUse(f"The key {other} is called {key.name!r} already.")
            db.execute(insert(tables.keys).values(row))

    def add_first(self, key: ApiKey) -> bool:
        """Keep a key if there never was any; whether that was so."""
        row = asdict(key) | {"scopes": sorted(key.scopes)}
        with self._database.write() as db:
            self._database.take_turn(db, "keys")
            if db.execute(select(tables.keys.c.id).limit(1)).first() is not None:
                return False
            db.execute(insert(tables.keys).values(row))
            return True

    def all(self) -> list[ApiKey]:
        """Every key that there ever was, oldest first."""
        query = select(tables.keys).order_by(tables.keys.c.created_at, tables.keys.c.id)
        with self._database.read() as db:
            return [_key_of(row) for row in db.execute(query)]

    def find(self, name: str) -> ApiKey:
        """The key of that id, or else of that label, where a revoked one gives way to another.

        Raises:
            UnknownKey: there is none, or several have the label.
        """
        # People paste the whole key.
        key_id, keys = name.partition(":")[0], self.all()
        by_id = [key for key in keys if key.id == key_id]
        labelled = [key for key in keys if key.name == name]
        found = by_id or [key for key in labelled if key.revoked_at is None] or labelled
        if not found:
            raise UnknownKey(f"There is no key {key_id!r}.")
        if len(found) > 1:
            ids = ", ".join(key.id for key in found)
            raise UnknownKey(f"{len(found)} keys are called {name!r}: give the id of one, {ids}.")
        return found[0]

    def id_of(self, name: str) -> str:
        """The id of the key that has this id or label, or that jobs or files belong to.

        A key that the settings name has no row.

        Raises:
            UnknownKey: there is none, or several have the label.
        """
        with self._database.read() as db:
            for table in (tables.jobs, tables.artifacts):
                if db.execute(select(table.c.key_id).where(table.c.key_id == name)).first():
                    return name
        return self.find(name).id

    def set_limits(self, key_id: str, limits: Mapping[str, int | None]) -> None:
        """Set some of a key's limits, by the names of the fields of `OwnLimits`."""
        of_key = update(tables.keys).where(tables.keys.c.id == key_id)
        with self._database.write() as db:
            db.execute(of_key.values(dict(limits)))

    def revoke(self, key_id: str) -> None:
        """Make a key, its sessions and the tokens that it issued, worthless from now on.

        Raises:
            UnknownKey: there is none of that id.
        """
        of_key = tables.keys.c.id == key_id
        known = select(tables.keys.c.id).where(of_key)
        still_valid = tables.keys.c.revoked_at.is_(None)
        revoke = update(tables.keys).where(of_key, still_valid).values(revoked_at=self._now())
        with self._database.write() as db:
            if db.execute(known).one_or_none() is None:
                raise UnknownKey(f"There is no key {key_id!r}.")
            db.execute(revoke)
            db.execute(delete(tables.sessions).where(tables.sessions.c.key_id == key_id))

    def note_use(self, key_id: str) -> None:
        """Remember that the key was used just now."""
        used = update(tables.keys).where(tables.keys.c.id == key_id)
        with self._database.write() as db:
            db.execute(used.values(last_used_at=self._now()))


class KeyCache:
    """The keys as they were a moment ago, so that a poll costs no look at the table.

    `configured` is a key that the server's settings name: it is valid while they do, and is not in
    the table.
    """

    def __init__(
        self,
        store: KeyStore,
        configured: ApiKey | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self._configured = configured
        self._clock = clock
        self._keys: dict[str, ApiKey] = {}
        self._read_at = -math.inf
        self._reading = asyncio.Lock()
        self._noted_at: dict[str, float] = {}

    async def find(self, key_id: str) -> ApiKey | None:
        """The key of that id, whether it is valid or not."""
        if self._configured is not None and self._configured.id == key_id:
            return self._configured
        if self._is_stale():
            await self._read()
        return self._keys.get(key_id)

    def forget(self) -> None:
        """Read the table again when the next key is looked for: it has just been changed."""
        self._read_at = -math.inf

    async def note_use(self, key: ApiKey) -> None:
        """Remember that the key was used, to the minute."""
        at = self._clock()
        noted_at = self._noted_at.get(key.id, -math.inf)
        if key is self._configured or at - noted_at < USE_IS_NOTED_EVERY_S:
            return
        self._noted_at[key.id] = at
        # A disk that is full must not keep a caller from the status of a job.
        note = to_writer_thread(self.store.note_use, key.id)
        await log_errors("noting that a key was used", note)

    async def _read(self) -> None:
        async with self._reading:
            if not self._is_stale():
                return
            asked_at = self._clock()
            keys = await asyncio.to_thread(self.store.all)
            self._keys = {key.id: key for key in keys}
            self._read_at = asked_at

    def _is_stale(self) -> bool:
        return self._clock() - self._read_at >= COPY_LIVES_S


def _key_of(row: AnyRow) -> ApiKey:
    return ApiKey(**{**row._mapping, "scopes": frozenset(map(Scope, row.scopes))})
