"""Whether this server can make videos now; if not, which of its needs is not met."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.exc import DatabaseError

from server.db.database import Database
from server.disk import DiskSpace
from server.dispatch.drain import Drain
from server.errors import DiskFull
from server.jobs.pause import paused_since
from server.workers.pool import Pool

_LOOK_AGAIN_S = 1.0
"""Callers, who need no key, make the disk work no more often than this."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a ready server needs; `problem` is a sentence if it is not so."""

    name: str
    problem: str | None


class Readiness:
    """Looks after the needs of one server."""

    def __init__(self, pool: Pool, database: Database, drain: Drain, disk: DiskSpace) -> None:
        self._pool = pool
        self._database = database
        self._drain = drain
        self._disk = disk
        self._looking = asyncio.Lock()
        self._looked_at: float | None = None
        self._storage: list[Check] = []
        self.paused_since: float | None = None
        """When the queue was paused, as of the last look."""

    async def checks(self) -> Sequence[Check]:
        """Every need, in a fixed order."""
        async with self._looking:
            now = time.monotonic()
            if self._looked_at is None or now - self._looked_at >= _LOOK_AGAIN_S:
                self._storage = await asyncio.to_thread(self._look_at_storage)
                self._looked_at = now
        return [self._worker(), *self._storage, self._draining()]

    def _worker(self) -> Check:
        slots = self._pool.slots()
        if any(slot.can_work for slot in slots):
            return Check("worker", None)
        if any(slot.is_unstable for slot in slots):
            return Check("worker", "Workers keep ending; down_reason says why the last one did.")
        return Check("worker", "No worker has loaded the model.")

    def _draining(self) -> Check:
        begun = self._drain.has_begun
        return Check("draining", "The server was told to end." if begun else None)

    def _look_at_storage(self) -> list[Check]:
        return [Check("database", self._database_problem()), Check("disk", self._disk.problem())]

    def _database_problem(self) -> str | None:
        try:
            self.paused_since = paused_since(self._database)
            with self._database.write():
                return None
        except DatabaseError as error:
            return f"The database cannot be written: {error.orig}."
        except DiskFull as error:
            return f"The database cannot be written: {error}"
