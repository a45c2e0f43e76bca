"""Whether this server can make videos now; if not, which of its needs is not met."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from server.db.database import Database
from server.disk import DiskSpace, shortage_of
from server.dispatch.drain import Drain
from server.errors import DatabaseDamaged
from server.files.store import FileStore
from server.jobs.pause import paused_since
from server.jobs.reports import in_progress, waiting_for_others
from server.outbound.moderation import Moderation
from server.tasks import Loops, to_writer_thread
from server.workers.pool import Pool, SlotState, SlotView

_LOOK_AGAIN_S = 1.0
"""Callers, who need no key, make the disk work no more often than this."""

_LOOK_S = 1.0
"""How long a caller waits for the database. A locked one is waited for longer, and probes give up
after a second or a few."""

_SILENT = "The database has not answered within a second; another program may hold it."

_AT_ODDS_S = 60.0
"""How long slots, runs and rows may be at odds, as they are while one of them is changed."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a ready server needs; `problem` is a sentence if it is not so."""

    name: str
    problem: str | None


@dataclass(eq=False)
class Readiness:
    """Looks after the needs of one server; of `files` if they are on another machine.

    `pool` is None if other servers run its jobs.
    """

    pool: Pool | None
    database: Database
    drain: Drain
    disk: DiskSpace
    loops: Loops
    moderation: Moderation | None = None
    files: FileStore | None = None
    endpoints: Collection[str] = field(kw_only=True)
    now: Callable[[], float] = field(default=time.monotonic, kw_only=True)

    def __post_init__(self) -> None:
        self._looking = asyncio.Lock()
        self._looked_at: float | None = None
        self._storage: list[Check] = []
        self._look: asyncio.Task[str | None] | None = None
        self._in_progress: set[str] = set()
        self._at_odds_since: dict[str, float] = {}
        self.paused_since: float | None = None
        """When the queue was paused, as of the last look."""
        self.waiting_for_weights: Mapping[str, int] = {}
        """The jobs that wait of each endpoint whose weights are not here, as of the last look."""

    async def checks(self) -> Sequence[Check]:
        """Every need, in a fixed order."""
        async with self._looking:
            now = self.now()
            if self._looked_at is None or now - self._looked_at >= _LOOK_AGAIN_S:
                database = Check("database", await self._look_at_database(now))
                disk = Check("disk", await asyncio.to_thread(self.disk.problem))
                self._storage = [database, disk]
                self._looked_at = now
        return [
            self._worker(),
            self._guardrail(),
            *self._storage,
            *([] if self.files is None else [Check("files", self.files.problem)]),
            self._tasks(),
            self._draining(),
        ]

    def _worker(self) -> Check:
        slots = self._slots()
        if self.pool is None or any(slot.can_work for slot in slots):
            return Check("worker", None)
        if any(slot.is_unstable for slot in slots):
            return Check("worker", "Workers keep ending; down_reason says why the last one did.")
        return Check("worker", "No worker has loaded the model.")

    def _slots(self) -> Sequence[SlotView]:
        return () if self.pool is None else self.pool.slots()

    def _guardrail(self) -> Check:
        problem = None if self.moderation is None else self.moderation.problem
        return Check("guardrail", problem)

    def _tasks(self) -> Check:
        """That the loops run, and that slots, runs and rows agree on which jobs do."""
        problem = self.loops.problem()
        now = self.now()
        lost = [what for what, since in self._at_odds_since.items() if now - since >= _AT_ODDS_S]
        if problem is None and lost:
            problem = f"The server has lost sight of {', '.join(lost)}: start it again."
        return Check("tasks", problem)

    def _compare(self, now: float) -> None:
        """Note since when a job is in progress without a run, or a slot busy without one."""
        running = self.drain.running
        jobs = self._in_progress - set(running.values())
        slots = {slot.name for slot in self._slots() if slot.state is SlotState.BUSY}
        at_odds = [f"the job {id_}" for id_ in sorted(jobs)]
        at_odds += [f"the slot {name}" for name in sorted(slots - running.keys())]
        self._at_odds_since = {what: self._at_odds_since.get(what, now) for what in at_odds}

    def _draining(self) -> Check:
        begun = self.drain.has_begun
        return Check("draining", "The server was told to end." if begun else None)

    async def _look_at_database(self, now: float) -> str | None:
        """What is wrong with the database, as a sentence; None if it can be read and written."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._database_problem())
        await asyncio.wait([self._look], timeout=_LOOK_S)
        if not self._look.done():
            return _SILENT
        self._compare(now)
        return self._look.result()

    async def _database_problem(self) -> str | None:
        try:
            await to_writer_thread(self._use_database)
        except DatabaseDamaged as error:
            return str(error)
        except Exception as error:
            shortage = shortage_of(error)
            if shortage is None:
                raise
            return f"The database cannot be written. {shortage}"
        # A part that is damaged may be one that is seldom read.
        return str(DatabaseDamaged()) if self.database.is_damaged else None

    def _use_database(self) -> None:
        self._in_progress = set()
        self.paused_since = paused_since(self.database)
        # Where servers share the database, these are the runs of all: their leases end.
        if not self.database.is_shared:
            self._in_progress = in_progress(self.database)
        self.waiting_for_weights = waiting_for_others(self.database, self.endpoints)
        with self.database.write():
            pass
