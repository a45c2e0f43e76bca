"""A pool for a server whose checkpoint is still to be fetched: its workers start after that."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from server.config.hub import HubSettings
from server.config.settings import Settings
from server.tasks import backoff_s, in_thread, log_errors
from server.workers.messages import Loading, RunEvent, WorkOrder
from server.workers.pool import KILLED, Pool, SlotChange, SlotView
from server.workers.verdicts import Verdict
from weights.errors import CheckpointError, CheckpointIncomplete
from weights.manifest import load_manifest
from weights.store import WeightStore

if TYPE_CHECKING:
    from weights.download import Hub
    from weights.listing import Listing

TRY_AGAIN_S = 1.0
TRY_AGAIN_MAX_S = 60.0

_LOG_EVERY = 0.05
"""The log has a line for each such part of the whole."""

_log = structlog.get_logger("server")


class CheckpointPull:
    """The fetch of NVIDIA's checkpoint into a folder that has none, or a part of it.

    Where the folder has a file that is not NVIDIA's, it is left as it is, and the fetch fails.
    """

    _hub: "Hub"
    _listing: "Listing"
    _opened: ExitStack

    def __init__(self, folder: Path, hub: HubSettings) -> None:
        self._folder = folder
        self._settings = hub
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
        try:
            WeightStore(settings.weights)
        except CheckpointIncomplete:
            hub = HubSettings.load()
            return None if hub.offline else cls(settings.weights, hub)
        return None

    def prepare(self) -> None:
        """See that the folder can be written, that the hub gives us the files, and that they fit.

        Raises:
            PullFailed: one of these is not so.
        """
        from weights.download import Hub
        from weights.pull import check_folder, make_folder

        make_folder(self._folder)
        manifest = load_manifest()
        with ExitStack() as opened:
            self._hub = opened.enter_context(Hub(self._settings.endpoint, manifest))
            self._listing = self._hub.listing(self.say, self._stopping.wait).needed(manifest)
            self._hub.check_access(self._listing)
            check_folder(self._listing.files, self._folder)
            self._opened = opened.pop_all()
        _log.info("The checkpoint is fetched first", bytes=self._listing.size)

    def close(self) -> None:
        """Close the connections to the hub, once nothing runs."""
        self._opened.close()

    @property
    def loading(self) -> Loading:
        """How far it is."""
        done, total = self._done, self._listing.size
        text = f"Fetching the checkpoint: {done:,} of {total:,} bytes"
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
            pull(self._hub, self._listing, self._folder, self, replace=False, stopping=stopping)
        except Stopped:
            return False
        except Exception as error:
            self.problem = f"The checkpoint could not be fetched: {error}"
            _log.error(self.problem, exc_info=not isinstance(error, CheckpointError | OSError))
            return False
        _log.info("The checkpoint is here", commit=self._listing.commit)
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
            fraction = self._done / self._listing.size
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
