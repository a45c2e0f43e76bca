"""A pool whose workers are threads of this process, for tests that are not about processes.

It starts no process, so it is up in no time. What it cannot do is end a worker: a thread cannot be
killed, and the scripted faults that end or confuse their process need a `LocalPool`.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

from server.config.settings import Settings
from server.workers.devices import devices_from
from server.workers.local_pool import named
from server.workers.loop import WorkerOptions, run_order, worker_class
from server.workers.messages import RunEvent, WorkOrder
from server.workers.pool import (
    CLOSED,
    KILLED,
    SlotChange,
    SlotDown,
    SlotIdle,
    SlotLoading,
    SlotState,
    SlotUnavailable,
    SlotUp,
    SlotView,
    WorkerTaken,
)
from server.workers.streams import Changes, RunEvents
from server.workers.verdicts import Verdict, Verdicts

ENDING_GRACE_S = 5.0
"""How long a worker may go on when its pool is closed; then its thread is left behind."""


class InProcessPool:
    """A `Pool` of one thread for each device."""

    def __init__(self, worker: str, options: WorkerOptions, devices: Sequence[str]) -> None:
        self._changes = Changes()
        self._slots = {
            name: _Slot(name, device, worker, options, self._changes)
            for name, device in named(devices)
        }

    @classmethod
    def from_settings(cls, settings: Settings) -> "InProcessPool":
        options = WorkerOptions(
            weights=str(settings.weights), memory=settings.memory, guardrail=settings.guardrail
        )
        devices = devices_from(settings.devices, settings.cuda_visible_devices)
        return cls(settings.worker, options, devices)

    async def start(self) -> None:
        for slot in self._slots.values():
            slot.start(asyncio.get_running_loop())

    async def close(self) -> None:
        for slot in self._slots.values():
            slot.ask_to_end()
        for slot in self._slots.values():
            await asyncio.to_thread(slot.join)
        self._changes.publish(None)

    def slots(self) -> Sequence[SlotView]:
        return [slot.view for slot in self._slots.values()]

    def changes(self) -> AsyncGenerator[SlotChange, None]:
        return self._changes.read()

    def run(
        self, slot: str, order: WorkOrder
    ) -> AbstractAsyncContextManager[AsyncIterator[RunEvent]]:
        return self._slots[slot].run(order)

    async def cancel(self, slot: str, job_id: str, attempt: int) -> None:
        self._slots[slot].cancel(job_id, attempt)

    async def answer(self, slot: str, verdict: Verdict) -> None:
        self._slots[slot].answer(verdict)

    async def kill(self, slot: str, reason: str = KILLED) -> None:
        raise NotImplementedError("A thread cannot be killed: this test needs a LocalPool.")


class _Slot:
    def __init__(
        self, name: str, device: str, worker: str, options: WorkerOptions, changes: Changes
    ) -> None:
        self.view = SlotView(name=name, device=device, state=SlotState.LOADING)
        self._changes = changes
        self._orders: queue.SimpleQueue[tuple[WorkOrder, RunEvents] | None] = queue.SimpleQueue()
        self._current: tuple[WorkOrder, RunEvents] | None = None
        self._stop_asked = threading.Event()
        # A daemon, so that a worker that does not end cannot hold up the end of the tests.
        self._thread = threading.Thread(target=self._work, args=(worker, options), daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    @asynccontextmanager
    async def run(self, order: WorkOrder) -> AsyncIterator[AsyncIterator[RunEvent]]:
        if self.view.state is not SlotState.IDLE:
            raise SlotUnavailable(f"The slot {self.view.name} is {self.view.state}.")
        run = RunEvents(self._loop)
        self._stop_asked.clear()
        self._current = order, run
        self.view = replace(self.view, state=SlotState.BUSY)
        self._orders.put(self._current)
        try:
            yield run
        finally:
            run.drop()
            if self._current == (order, run):
                self._stop_asked.set()

    def cancel(self, job_id: str, attempt: int) -> None:
        order = self._current[0] if self._current is not None else None
        if order is not None and (order.job_id, order.attempt) == (job_id, attempt):
            self._stop_asked.set()

    def answer(self, verdict: Verdict) -> None:
        order, _ = self._current or (None, None)
        if order is not None and (order.job_id, order.attempt) == (verdict.job_id, verdict.attempt):
            self._verdicts.add(verdict)

    def ask_to_end(self) -> None:
        self._stop_asked.set()
        self._orders.put(None)
        if self._current is not None:
            self._current[1].end(WorkerTaken(CLOSED))

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join(ENDING_GRACE_S)

    def _work(self, path: str, options: WorkerOptions) -> None:
        """What the thread does."""
        name = self.view.name
        try:
            worker = worker_class(path)(self.view.device.partition(":")[0], options)
            ready = worker.load(lambda now: self._tell(SlotLoading(name, now), loading=now))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self._tell(SlotDown(name, reason), state=SlotState.DOWN, down_reason=reason)
            return
        self._tell(
            SlotUp(name, ready.checkpoint_digest),
            state=SlotState.IDLE,
            loading=None,
            device_name=ready.device,
            checkpoint_digest=ready.checkpoint_digest,
            attention=ready.attention,
            memory=ready.memory,
            kernels=ready.kernels,
            kernels_problem=ready.kernels_problem,
            versions=ready.versions,
        )
        while (work := self._orders.get()) is not None:
            order, run = work
            stop_asked = self._stop_asked.is_set
            self._verdicts = Verdicts(run.deliver, stop_asked)
            run.deliver(run_order(worker, order, run.deliver, stop_asked, self._verdicts.judge))
            self._tell(SlotIdle(name), state=SlotState.IDLE, memory=worker.memory)
        self._tell(SlotDown(name, CLOSED), state=SlotState.DOWN, down_reason=CLOSED)

    def _tell(self, change: SlotChange, **fields: Any) -> None:
        self._loop.call_soon_threadsafe(self._show, change, fields)

    def _show(self, change: SlotChange, fields: dict[str, Any]) -> None:
        if isinstance(change, SlotIdle):
            self._current = None
        self.view = replace(self.view, **fields)
        self._changes.publish(change)
