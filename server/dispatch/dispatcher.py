"""Gives the jobs that wait to the slots that are free, the oldest of the highest priority first."""

import asyncio
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from server.disk import DiskSpace
from server.dispatch.deadlines import Deadlines
from server.dispatch.drain import Drain
from server.dispatch.log import LogWriter
from server.dispatch.previews import Previews
from server.dispatch.run import JobRun
from server.fal.endpoints import Limits
from server.files.store import FileStore
from server.jobs.store import JobStore
from server.models import NO_VERDICT, Job, infrastructure_error
from server.outbound.moderation import Moderation
from server.tasks import (
    LOOK_AGAIN_S,
    Signals,
    log_errors,
    on,
    retry_until_written,
    to_writer_thread,
)
from server.tracing.traces import NoTraces, Traces
from server.workers.pool import Pool, SlotDown, SlotGone, SlotState, SlotUp
from server.workers.progress_text import describe_loading

_PAUSED = "The queue is paused by the operator: this request waits until it is resumed."
_NO_WEIGHTS = (
    "The weights of this endpoint are not on this server now: this request waits until they are."
)
_NO_VERDICTS = "The content checker gives no answers: this request waits for it."
_NO_FILES = "The server's store of files is away: this request waits until it is back."
_NO_ROOM = "The server's disk is almost full: this request waits until there is room."

_log = structlog.get_logger("server")


class _Running(NamedTuple):
    job: Job
    stop: asyncio.Event
    task: asyncio.Task[None]


@dataclass(eq=False, kw_only=True)
class Dispatcher:
    """One loop that claims, and one task for each job that runs."""

    pool: Pool
    store: JobStore
    files: FileStore
    limits: Limits
    signals: Signals
    disk: DiskSpace
    moderation: Moderation | None = None
    drain: Drain = field(default_factory=Drain)
    deadlines: Deadlines = field(default_factory=Deadlines)
    previews: Previews = field(default_factory=Previews)
    traces: Traces = field(default_factory=NoTraces)

    def __post_init__(self) -> None:
        self._logs = LogWriter(self.store)
        self._running: dict[str, _Running] = {}
        """By slot."""
        self._next_is_late_in_s = LOOK_AGAIN_S

    async def run(self) -> None:
        """Claim jobs for free slots, and stop and write down what they do, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            claimable, cancelled = self.signals.claimable, self.signals.cancelled
            tasks.create_task(on(claimable, "claiming jobs", self._fill_slots))
            tasks.create_task(on(claimable, "telling why jobs wait", self._tell_why))
            tasks.create_task(on(cancelled, "stopping runs", self._stop_runs))
            tasks.create_task(self._logs.run())

    async def end_late(self) -> None:
        """End the jobs that were not started in time, until cancelled."""
        while True:
            seen = self.signals.submitted.count
            await log_errors("ending late jobs", self._end_late())
            await self.signals.submitted.wait(seen, self._next_is_late_in_s)

    async def watch_pool(self) -> None:
        """Pass on that a slot is free, until the pool is closed."""
        async for change in self.pool.changes():
            match change:
                case SlotDown(slot, reason):
                    _log.error("A worker is down", slot=slot, reason=reason)
                    self.deadlines.forget(slot)
                case SlotGone(slot):
                    _log.info("A worker that had no job is ended", slot=slot)
                    self.deadlines.forget(slot)
                case SlotUp(slot):
                    _log.info("A worker is ready", slot=slot)
            self.signals.claimable.notify()

    def in_hand(self) -> dict[str, asyncio.Task[None]]:
        """The jobs that run, by their ids."""
        return {run.job.id: run.task for run in self._running.values()}

    async def close(self) -> None:
        """Stop every run, and put its job back at its old place."""
        running = list(self._running.values())
        for run in running:
            run.task.cancel()
        await asyncio.gather(*(run.task for run in running), return_exceptions=True)
        for job, *_ in running:
            # What cannot be given back now is put back at the next start.
            giving = to_writer_thread(self.store.give_back, job.id, job.attempt)
            await log_errors(f"giving back job {job.id}", giving)

    async def _end_late(self) -> None:
        self._next_is_late_in_s = LOOK_AGAIN_S
        before = None if self.moderation is None else self.moderation.given_up_before
        if before is not None:
            await to_writer_thread(self.store.end_waiting, NO_VERDICT, before=before)
            self.signals.finished.notify()
        seconds = await to_writer_thread(self.store.end_late)
        if seconds is not None:
            self._next_is_late_in_s = seconds
            self.signals.finished.notify()

    async def _fill_slots(self) -> None:
        if self.disk.problem() is not None or self.files.problem is not None:
            return
        if self._lacks_verdicts():
            return
        for slot in self.pool.slots():
            if self.drain.has_begun:
                return
            if slot.state is not SlotState.IDLE or slot.name in self._running:
                continue
            job = await to_writer_thread(self.store.claim, slot.name)
            if job is None:
                return
            stop = asyncio.Event()
            task = asyncio.create_task(self._supervise(job, slot.name, stop))
            self._running[slot.name] = _Running(job, stop, task)

    async def _stop_runs(self) -> None:
        # Those of now: a job of them may have another run once they are looked up.
        running = list(self._running.values())
        if not running:
            return
        attempts = {run.job.id: run.job.attempt for run in running}
        to_stop = await asyncio.to_thread(self.store.runs_to_stop, attempts)
        for run in running:
            if run.job.id in to_stop:
                run.stop.set()

    async def _tell_why(self) -> None:
        """Tell the callers of the jobs that wait why, if it is not for other jobs."""
        if self.disk.problem() is not None:
            await to_writer_thread(self.store.log_to_waiting, _NO_ROOM)
        if self.files.problem is not None:
            await to_writer_thread(self.store.log_to_waiting, _NO_FILES)
        await to_writer_thread(self.store.log_to_waiting, _NO_WEIGHTS, unserved=True)
        if self._lacks_verdicts():
            await to_writer_thread(self.store.log_to_waiting, _NO_VERDICTS)
        if await asyncio.to_thread(self.store.paused_since) is not None:
            await to_writer_thread(self.store.log_to_waiting, _PAUSED)
        slots = self.pool.slots()
        if any(slot.state in (SlotState.IDLE, SlotState.BUSY) for slot in slots):
            return
        for slot in slots:
            if slot.state is SlotState.LOADING and slot.loading is not None:
                line = describe_loading(slot.loading)
                await to_writer_thread(self.store.log_to_waiting, line)
                return

    def _lacks_verdicts(self) -> bool:
        return self.moderation is not None and self.moderation.problem is not None

    async def _supervise(self, job: Job, slot: str, stop: asyncio.Event) -> None:
        try:
            with self.drain.run(slot, job.id):
                if not await log_errors(f"run of job {job.id}", self._run(job, slot, stop)):
                    await log_errors(f"ending job {job.id}", self._fail(job))
        finally:
            del self._running[slot]
            self.signals.claimable.notify()

    async def _run(self, job: Job, slot: str, stop: asyncio.Event) -> None:
        with self.traces.run(job, slot) as heard:
            run = JobRun(
                job=job,
                slot=slot,
                pool=self.pool,
                store=self.store,
                files=self.files,
                limits=self.limits,
                signals=self.signals,
                drain=self.drain,
                deadlines=self.deadlines,
                logs=self._logs,
                stop=stop,
                moderation=self.moderation,
                previews=self.previews,
                heard=heard,
            )
            await run.run()

    async def _fail(self, job: Job) -> None:
        """End a job whose run met an error of this server."""
        error = infrastructure_error(
            "The server could not keep what the worker made.", "internal_error"
        )
        await retry_until_written(
            f"the failure of job {job.id}",
            lambda: self.store.finish(job.id, job.attempt, error=error),
        )
        self.signals.finished.notify()
