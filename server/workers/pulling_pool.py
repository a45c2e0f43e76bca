"""A pool for a server whose checkpoint is still to be fetched: its workers start after that."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from server.config.hub import HubSettings
from server.config.settings import Settings
from server.tasks import backoff_s, in_thread, log_errors
from server.workers.messages import Loading, RunEvent, WorkOrder
from server.workers.pool import KILLED, Pool, SlotChange, SlotView
from server.workers.verdicts import Verdict
from weights import guardrail
from weights.checkpoint_profile import CheckpointProfile
from weights.checkpoints import folders_in
from weights.errors import CheckpointError, CheckpointIncomplete
from weights.manifest import Repository, load_manifest
from weights.store import WeightStore

if TYPE_CHECKING:
    from weights.download import Hub
    from weights.listing import Listing

CHECKPOINT, GUARDRAIL = "checkpoint", "guardrail's model"

TRY_AGAIN_S = 1.0
TRY_AGAIN_MAX_S = 60.0

_LOG_EVERY = 0.05
"""The log has a line for each such part of the whole."""

_log = structlog.get_logger("server")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is fetched of one repository of the hub, and into which folder."""

    name: str
    repository: Repository
    folder: Path
    needed: "Callable[[Listing], Listing]"


class CheckpointPull:
    """The fetch of what a start finds missing: NVIDIA's checkpoint, the guardrail's model, or both.

    Where a folder has a file that is not the hub's, it is left as it is, and the fetch fails.
    """

    _sources: "list[tuple[Hub, Listing, Path]]"
    _opened: ExitStack

    def __init__(self, wanted: Sequence[_Wanted], hub: HubSettings) -> None:
        self._wanted = wanted
        self._settings = hub
        self._what = " and ".join(f"the {each.name}" for each in wanted)
        self._stopping = threading.Event()
        self._is_ending = False
        self._lock = threading.Lock()
        self._done = 0
        self._logged = 0.0
        self.problem: str | None = None
        """Why the last try failed, None before."""

    @classmethod
    def wanted_by(cls, settings: Settings) -> "CheckpointPull | None":
        """The fetch that a start with these settings begins with, None if with none."""
        if not settings.pull or settings.fetch == "off":
            return None
        root = folders_in(str(settings.weights))[0]
        wanted = []
        try:
            profile = WeightStore(root).profile
        except CheckpointIncomplete:
            profile, manifest = CheckpointProfile(), load_manifest()
            wanted.append(_Wanted(CHECKPOINT, manifest, root, lambda all_: all_.needed(manifest)))
        judges = settings.guardrail == "text" or (
            settings.guardrail == "required" and profile.guardrail == "required"
        )
        if judges and guardrail.guardrail_files(root).missing:
            folder = root / guardrail.FOLDER
            wanted.append(_Wanted(GUARDRAIL, guardrail.GUARDRAIL, folder, guardrail.needed_files))
        if not wanted:
            return None
        hub = HubSettings.load()
        return None if hub.offline else cls(wanted, hub)

    def brings(self, name: str) -> bool:
        """Whether `CHECKPOINT` or `GUARDRAIL` is fetched."""
        return any(each.name == name for each in self._wanted)

    def prepare(self) -> None:
        """See that the folders can be written, that the hub gives us the files, and that they fit.

        Raises:
            PullFailed: one of these is not so.
        """
        from weights.download import Hub
        from weights.pull import check_folder, make_folder

        with ExitStack() as opened:
            self._sources = []
            for wanted in self._wanted:
                make_folder(wanted.folder)
                hub = opened.enter_context(Hub(self._settings.endpoint, wanted.repository))
                listing = wanted.needed(hub.listing(self.say, self._stopping.wait))
                hub.check_access(listing)
                self._sources.append((hub, listing, wanted.folder))
            still_to_come = self._size
            for _, listing, folder in self._sources:
                still_to_come -= listing.size
                check_folder(listing.files, folder, more_bytes=still_to_come)
            self._opened = opened.pop_all()
        _log.info("The checkpoint is fetched first", what=self._what, bytes=self._size)

    @property
    def _size(self) -> int:
        return sum(listing.size for _, listing, _ in self._sources)

    def close(self) -> None:
        """Close the connections to the hub, once nothing runs."""
        self._opened.close()

    @property
    def loading(self) -> Loading:
        """How far it is."""
        done, total = self._done, self._size
        text = f"Fetching {self._what}: {done:,} of {total:,} bytes"
        return Loading(text, min(1.0, done / total))

    def run(self) -> bool:
        """Fetch what is not here yet; whether that is now all. It is done in a thread."""
        from weights.parallel import Stopped
        from weights.pull import pull

        with self._lock:
            if self._is_ending:
                return False
            self._stopping = stopping = threading.Event()
            self._done, self._logged = 0, 0.0
        try:
            for hub, listing, folder in self._sources:
                pull(hub, listing, folder, self, replace=False, stopping=stopping)
        except Stopped:
            return False
        except Exception as error:
            self.problem = f"{self._what.capitalize()} could not be fetched: {error}"
            _log.error(self.problem, exc_info=not isinstance(error, CheckpointError | OSError))
            return False
        commits = [listing.commit for _, listing, _ in self._sources]
        _log.info("The checkpoint is here", what=self._what, commits=commits)
        return True

    def stop(self) -> None:
        """Let it end soon, and keep what came for the next start."""
        with self._lock:
            self._is_ending = True
            self._stopping.set()

    def advance(self, count: int) -> None:
        """See `weights.pull.Display`."""
        with self._lock:
            self._done += count
            fraction = self._done / self._size
            is_time = fraction - self._logged >= _LOG_EVERY
            if is_time:
                self._logged = fraction
        if is_time:
            _log.info(self.loading.text)

    def say(self, line: str) -> None:
        """See `weights.pull.Display`."""
        _log.warning(line)


class PullingPool:
    """A `Pool` whose workers start once the checkpoint is here; jobs wait for them meanwhile."""

    def __init__(self, pool: Pool, pull: CheckpointPull) -> None:
        """`pool` is one that was not started."""
        self._pool = pool
        self._pull = pull
        self._is_pulled = False
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See `Pool.start`."""
        self._starting = asyncio.create_task(self._start())

    async def _start(self) -> None:
        failures = 0
        while not await in_thread(self._pull.run):
            failures += 1
            await asyncio.sleep(backoff_s(failures, TRY_AGAIN_S, TRY_AGAIN_MAX_S))
        self._is_pulled = True
        self._pull.close()
        await log_errors("starting the workers", self._pool.start())

    async def close(self) -> None:
        """See `Pool.close`."""
        self._pull.stop()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        self._pull.close()
        await self._pool.close()

    def slots(self) -> Sequence[SlotView]:
        """See `Pool.slots`. Until the checkpoint is here, all load, and `loading` counts bytes."""
        slots = self._pool.slots()
        if self._is_pulled:
            return slots
        loading, problem = self._pull.loading, self._pull.problem
        return [replace(slot, loading=loading, down_reason=problem) for slot in slots]

    def changes(self) -> AsyncGenerator[SlotChange, None]:
        """See `Pool.changes`."""
        return self._pool.changes()

    def run(
        self, slot: str, order: WorkOrder
    ) -> AbstractAsyncContextManager[AsyncIterator[RunEvent]]:
        """See `Pool.run`."""
        return self._pool.run(slot, order)

    async def cancel(self, slot: str, job_id: str, attempt: int) -> None:
        """See `Pool.cancel`."""
        await self._pool.cancel(slot, job_id, attempt)

    async def answer(self, slot: str, verdict: Verdict) -> None:
        """See `Pool.answer`."""
        await self._pool.answer(slot, verdict)

    async def kill(self, slot: str, reason: str = KILLED) -> None:
        """See `Pool.kill`."""
        await self._pool.kill(slot, reason)
