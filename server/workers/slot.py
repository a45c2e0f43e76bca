"""One slot of a pool, as the event loop sees it: its state, and the run that it does.

The slot's thread (`server.workers.supervisor`) keeps a worker alive and reports on it.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from pipeline.progress import Restarted
from server.workers.loop import Cancel
from server.workers.messages import Failed, Idle, Loading, Ready, RunEvent, WorkOrder
from server.workers.pool import (
    SlotChange,
    SlotDown,
    SlotIdle,
    SlotLoading,
    SlotState,
    SlotUnavailable,
    SlotUp,
    SlotView,
    WorkerDied,
    WorkerTaken,
)
from server.workers.streams import RunEvents
from server.workers.supervisor import Report, SlotPlan, Supervisor
from server.workers.verdicts import Verdict

TOO_MANY = 5
WITHIN_S = 600.0


class CrashCounter:
    """When the last workers of one slot ended, since one of them did a whole run."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._times: deque[float] = deque(maxlen=TOO_MANY)

    def add(self) -> None:
        self._times.append(self._now())

    def clear(self) -> None:
        """A run came to its end: the slot works."""
        self._times.clear()

    @property
    def is_crash_looping(self) -> bool:
        """Whether there were five within the last ten minutes."""
        return len(self._times) == TOO_MANY and self._now() - self._times[0] < WITHIN_S


class Slot:
    """A place for one worker. It is used from the event loop."""

    def __init__(self, plan: SlotPlan, publish: Callable[[SlotChange], None]) -> None:
        self._view = SlotView(name=plan.name, device=plan.device, state=SlotState.LOADING)
        self._publish = publish
        self.supervisor = Supervisor(plan, self._hear)
        self._crashes = CrashCounter()
        self._run: RunEvents | None = None
        self._load_limit_s = plan.load_limit_s
        self._load_timer: asyncio.TimerHandle | None = None

    def look(self) -> SlotView:
        """The slot as it is now."""
        return replace(self._view, is_unstable=self._crashes.is_crash_looping)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread, and with it the worker."""
        self._loop = loop
        self.supervisor.start(loop)

    @asynccontextmanager
    async def run(self, order: WorkOrder) -> AsyncIterator[AsyncIterator[RunEvent]]:
        """See `Pool.run`."""
        if self._view.state is not SlotState.IDLE:
            raise SlotUnavailable(f"The slot {self._view.name} is {self._view.state}.")
        run = RunEvents(self._loop)
        self.supervisor.begin(order, run)
        self._run = run
        self._enter(SlotState.BUSY, SlotState.IDLE)
        try:
            yield run
        finally:
            run.drop()
            if self._run is run and not run.is_over:
                self.cancel(order.job_id, order.attempt)

    def cancel(self, job_id: str, attempt: int) -> None:
        """See `Pool.cancel`."""
        self.supervisor.post(Cancel(job_id, attempt))

    def answer(self, verdict: Verdict) -> None:
        """See `Pool.answer`."""
        self.supervisor.post(verdict)

    def kill(self, reason: str) -> None:
        """See `Pool.kill`."""
        if self.supervisor.kill(reason) and self._run is not None:
            self._run.end(WorkerDied(reason))

    def ask_to_end(self, reason: str) -> None:
        """End the worker and start no other; see `Supervisor.join`."""
        self.supervisor.ask_to_end(reason)
        if self._run is not None:
            self._run.end(WorkerTaken(reason))

    def _hear(self, report: Report) -> None:
        """What the thread tells of the worker."""
        name = self._view.name
        match report:
            case Loading():
                self._enter(SlotState.LOADING, SlotState.LOADING, SlotState.DOWN, loading=report)
                if self._load_timer is None:
                    limit_s = self._load_limit_s
                    self._load_timer = self._loop.call_later(limit_s, self._give_up_loading)
                self._publish(SlotLoading(name, report))
            case Ready():
                self._stop_load_timer()
                self._enter(
                    SlotState.IDLE,
                    SlotState.LOADING,
                    loading=None,
                    device_name=report.device,
                    checkpoint_digest=report.checkpoint_digest,
                    attention=report.attention,
                    memory=report.memory,
                    kernels=report.kernels,
                    kernels_problem=report.kernels_problem,
                    versions=report.versions,
                )
                self._publish(SlotUp(name, report.checkpoint_digest))
            case Restarted() | Failed():
                shortages = self._view.memory_shortages + 1
                self._view = replace(self._view, memory_shortages=shortages)
            case Idle(memory):
                self._run = None
                self._crashes.clear()
                self._enter(SlotState.IDLE, SlotState.BUSY, memory=memory)
                self._publish(SlotIdle(name))
            case WorkerTaken():
                if self._run is not None:
                    self._run.end(report)
            case SlotDown(reason=reason):
                self._stop_load_timer()
                self._crashes.add()
                up = (SlotState.LOADING, SlotState.IDLE, SlotState.BUSY)
                self._enter(SlotState.DOWN, *up, loading=None, down_reason=reason)
                self._publish(report)
                if self._run is not None:
                    self._run.end(WorkerDied(reason))
                self._run = None

    def _enter(self, state: SlotState, *before: SlotState, **changes: Any) -> None:
        assert self._view.state in before, f"{self._view.state} is followed by {state}"
        self._view = replace(self._view, state=state, **changes)

    def _give_up_loading(self) -> None:
        self.supervisor.kill(
            f"Loading took longer than {self._load_limit_s:,.0f} seconds, "
            "so the worker was taken to hang and was stopped."
        )

    def _stop_load_timer(self) -> None:
        if self._load_timer is not None:
            self._load_timer.cancel()
            self._load_timer = None
