"""Gives the jobs that wait to the slots that are free, the oldest of the highest priority first."""

import asyncio

import structlog

from server.disk import DiskSpace, retry_until_written
from server.dispatch.deadlines import Deadlines
from server.dispatch.drain import Drain
from server.dispatch.run import JobRun
from server.fal.endpoints import Limits
from server.files.store import FileStore
from server.jobs.store import JobStore
from server.models import Job, infrastructure_error
from server.tasks import LOOK_AGAIN_S, Signals, log_errors, on
from server.workers.pool import Pool, SlotDown, SlotState, SlotUp
from server.workers.progress_text import describe_loading

_NO_ROOM = "The server's disk is almost full: this request waits until there is room."

_log = structlog.get_logger("server")


class Dispatcher:
    """One loop that claims, and one task for each job that runs."""

    def __init__(
        self,
        *,
        pool: Pool,
        store: JobStore,
        files: FileStore,
        limits: Limits,
        signals: Signals,
        disk: DiskSpace,
        drain: Drain | None = None,
        deadlines: Deadlines | None = None,
    ) -> None:
        self._pool = pool
        self._store = store
        self._files = files
        self._limits = limits
        self._signals = signals
        self._disk = disk
        self._drain = drain or Drain()
        self._deadlines = deadlines or Deadlines()
        self._running: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._next_is_late_in_s = LOOK_AGAIN_S

    async def run(self) -> None:
        """Claim jobs for free slots until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            claimable = self._signals.claimable
            tasks.create_task(on(claimable, "claiming jobs", self._fill_slots))
            tasks.create_task(on(claimable, "telling why jobs wait", self._tell_why))

    async def end_late(self) -> None:
        """End the jobs that were not started in time, until cancelled."""
        while True:
            seen = self._signals.submitted.count
            await log_errors("ending late jobs", self._end_late())
            await self._signals.submitted.wait(seen, self._next_is_late_in_s)

    async def watch_pool(self) -> None:
        """Pass on that a slot is free, until the pool is closed."""
        async for change in self._pool.changes():
            match change:
                case SlotDown(slot, reason):
                    _log.error("A worker is down", slot=slot, reason=reason)
                    self._deadlines.forget(slot)
                case SlotUp(slot):
                    _log.info("A worker is ready", slot=slot)
            self._signals.claimable.notify()

    async def close(self) -> None:
        """Stop every run, and put its job back at its old place."""
        running = list(self._running.values())
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)
        for job, _ in running:
            # What cannot be given back now is put back at the next start.
            giving = asyncio.to_thread(self._store.give_back, job.id, job.attempt)
            await log_errors(f"giving back job {job.id}", giving)

    async def _end_late(self) -> None:
        self._next_is_late_in_s = LOOK_AGAIN_S
        seconds = await asyncio.to_thread(self._store.end_late)
        if seconds is not None:
            self._next_is_late_in_s = seconds
            self._signals.finished.notify()

    async def _fill_slots(self) -> None:
        if self._disk.problem() is not None:
            return
        for slot in self._pool.slots():
            if self._drain.has_begun:
                return
            if slot.state is not SlotState.IDLE or slot.name in self._running:
                continue
            job = await asyncio.to_thread(self._store.claim, slot.name)
            if job is None:
                return
            task = asyncio.create_task(self._supervise(job, slot.name))
            self._running[slot.name] = job, task

    async def _tell_why(self) -> None:
        """Tell the callers of the jobs that wait why, if it is not for other jobs."""
        if self._disk.problem() is not None:
            await asyncio.to_thread(self._store.log_to_waiting, _NO_ROOM)
        slots = self._pool.slots()
        if any(slot.state in (SlotState.IDLE, SlotState.BUSY) for slot in slots):
            return
        for slot in slots:
            if slot.state is SlotState.LOADING and slot.loading is not None:
                line = describe_loading(slot.loading)
                await asyncio.to_thread(self._store.log_to_waiting, line)
                return

    async def _supervise(self, job: Job, slot: str) -> None:
        run = JobRun(
            job,
            slot,
            pool=self._pool,
            store=self._store,
            files=self._files,
            limits=self._limits,
            signals=self._signals,
            deadlines=self._deadlines,
        )
        with self._drain.run():
            if not await log_errors(f"run of job {job.id}", run.run()):
                await self._fail(job)
        del self._running[slot]
        self._signals.claimable.notify()

    async def _fail(self, job: Job) -> None:
        """End a job whose run met an error of this server."""
        error = infrastructure_error(
            "The server could not keep what the worker made.", "internal_error"
        )
        await retry_until_written(
            f"the failure of job {job.id}",
            lambda: self._store.finish(job.id, job.attempt, error=error),
        )
        self._signals.finished.notify()
