"""Whether this server can make videos now; if not, which of its needs is not met."""

import asyncio
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import DatabaseError

from server.database import Database
from server.drain import Drain
from server.errors import DiskFull
from server.pool import Pool

MIB = 1024 * 1024
_LOOK_AGAIN_S = 1.0
"""Whoever asks, and nobody needs a key, makes the disk work no more often than this."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a ready server needs; `problem` is a sentence if it is not so."""

    name: str
    problem: str | None


class Readiness:
    """Looks after the needs of one server."""

    def __init__(
        self, pool: Pool, database: Database, drain: Drain, *, folder: Path, min_free_mib: int
    ) -> None:
        self._pool = pool
        self._database = database
        self._drain = drain
        self._folder = folder
        self._min_free_mib = min_free_mib
        self._looking = asyncio.Lock()
        self._looked_at: float | None = None
        self._storage: list[Check] = []

    async def checks(self) -> Sequence[Check]:
        """Every need, in a fixed order."""
        async with self._looking:
            now = time.monotonic()
            if self._looked_at is None or now - self._looked_at >= _LOOK_AGAIN_S:
                self._storage = await asyncio.to_thread(self._look_at_storage)
                self._looked_at = now
        return [self._worker(), *self._storage, self._draining()]

    async def check_room(self) -> None:
        """See that there is room for what somebody wants to send.

        Raises:
            DiskFull: there is less left than has to stay free.
        """
        problem = await asyncio.to_thread(self._disk_problem)
        if problem is not None:
            raise DiskFull(f"{problem} Nothing is accepted until there is room again.")

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
        return [Check("database", self._database_problem()), Check("disk", self._disk_problem())]

    def _database_problem(self) -> str | None:
        try:
            with self._database.write():
                return None
        except DatabaseError as error:
            return f"The database cannot be written: {error.orig}."

    def _disk_problem(self) -> str | None:
        free_mib = shutil.disk_usage(self._folder).free // MIB
        if free_mib >= self._min_free_mib:
            return None
        return (
            f"The disk of the data folder has {free_mib:,} MiB left, and COSMOS_MIN_FREE_DISK_MIB "
            f"wants {self._min_free_mib:,}."
        )
