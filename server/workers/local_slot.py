"""One slot of the local pool: a thread that keeps a worker alive, and the run that it is doing.

The thread lives as long as the pool, because a worker dies with the thread that started it. It
reads what the worker sends, and starts another worker when one has ended. Each slot has a thread
of its own, because reading waits: for a worker that stopped in the middle of a message, and for a
run whose events nobody takes. What the slot is doing is changed on the event loop alone, which
the thread tells what it saw.
"""

import asyncio
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace

from pipeline.errors import OutOfMemory
from pipeline.memory_plan import MemoryPlan
from pipeline.progress import Restarted
from server.workers.loop import Cancel, WorkerOptions
from server.workers.messages import (
    BadMessage,
    Failed,
    Idle,
    Loading,
    Ready,
    RunEvent,
    WorkerEvent,
    WorkOrder,
    is_terminal,
)
from server.workers.pool import (
    CLOSED,
    SlotChange,
    SlotDown,
    SlotIdle,
    SlotLoading,
    SlotState,
    SlotUnavailable,
    SlotUp,
    SlotView,
    WorkerDied,
)
from server.workers.process import WorkerProcess, exit_sentence

MAX_BACKOFF_S = 60.0
"""The longest wait before a worker that keeps ending is started again."""

MAX_WAITING_EVENTS = 16
"""How many events of a run wait to be taken, a chunk being 1 MiB, before its worker has to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPlan:
    """What a slot runs: see `LocalPool`."""

    name: str
    device: str
    worker: str
    options: WorkerOptions
    first_backoff_s: float
    load_limit_s: float


def backoff_s(deaths: int, first_s: float) -> float:
    """The wait before a worker is started again that has ended this often in a row."""
    doublings = min(deaths - 1, 16)
    return min(first_s * 2.0**doublings, MAX_BACKOFF_S)


class RunEvents:
    """The events of one run, on their way from the slot's thread to whoever iterates."""

    def __init__(self, order: WorkOrder, loop: asyncio.AbstractEventLoop) -> None:
        self.name = Cancel(order.job_id, order.attempt)
        self.is_over = False
        self._loop = loop
        self._events: asyncio.Queue[RunEvent | WorkerDied] = asyncio.Queue()
        self._room = threading.Semaphore(MAX_WAITING_EVENTS)
        self._is_dropped = False

    def deliver(self, event: RunEvent) -> None:
        """Hand over the next event, from the slot's thread; waits while too many are waiting."""
        self.is_over = is_terminal(event)
        self._room.acquire()
        if self._is_dropped:
            self._room.release()
        else:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def end(self, reason: str) -> None:
        """Say, on the event loop, that no more will come; means nothing if the run is over."""
        self._events.put_nowait(WorkerDied(reason))
        self.drop()

    def drop(self) -> None:
        """Discard what is still to come, so that the slot's thread never waits here again."""
        self._is_dropped = True
        self._room.release()

    async def take(self) -> RunEvent:
        """The next event.

        Raises:
            WorkerDied: there will be none.
        """
        event = await self._events.get()
        self._room.release()
        if isinstance(event, WorkerDied):
            raise event
        return event


class LocalSlot:
    """A slot whose worker is a process of this machine."""

    def __init__(self, plan: SlotPlan, publish: Callable[[SlotChange], None]) -> None:
        self.view = SlotView(name=plan.name, device=plan.device, state=SlotState.LOADING)
        self._plan = plan
        self._publish = publish
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        # For the thread: what the worker that lives now has done.
        self._has_loaded = False
        self._has_worked = False
        # For the event loop: the worker that takes orders, and the run that it was given.
        self._worker: WorkerProcess | None = None
        self._run: RunEvents | None = None
        self._deaths = CrashCounter()
        # For whoever ends it: the process, from its start on, and why it has to end.
        self._process: WorkerProcess | None = None
        self._process_lock = threading.Lock()
        self._ended_because: str | None = None

    def look(self) -> SlotView:
        """The slot as it is now."""
        return replace(self.view, is_unstable=self._deaths.is_crash_looping)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread, and with it the worker."""
        self._loop = loop
        self._thread = threading.Thread(target=self._supervise, name=self.view.name, daemon=True)
        self._thread.start()

    def run(self, order: WorkOrder) -> AsyncGenerator[RunEvent, None]:
        """See `Pool.run`."""
        if self.view.state is not SlotState.IDLE or self._worker is None:
            raise SlotUnavailable(f"The slot {self.view.name} is {self.view.state}.")
        self._run = RunEvents(order, self._loop)
        self.view = replace(self.view, state=SlotState.BUSY)
        self._worker.post(order)
        return self._events_of(self._run)

    def cancel(self, job_id: str, attempt: int) -> None:
        """See `Pool.cancel`."""
        if self._worker is not None:
            self._worker.post(Cancel(job_id, attempt))

    def kill(self, reason: str) -> None:
        """See `Pool.kill`."""
        if self.kill_process(reason) and self._run is not None:
            self._run.end(reason)

    def kill_process(self, reason: str) -> bool:
        """Kill the worker, from any thread; False if it has ended already, for its own reason."""
        with self._process_lock:
            if self._process is None or not self._process.kill():
                return False
            self._ended_because = reason
            return True

    def ask_to_end(self) -> None:
        """End the worker and start no other; see `join`."""
        self._closing.set()
        with self._process_lock:
            if self._process is not None:
                self._ended_because = CLOSED
                self._process.ask_to_end()
        if self._run is not None:
            self._run.end(CLOSED)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread, whose worker is gone with it; whether it ended in time."""
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    async def _events_of(self, run: RunEvents) -> AsyncGenerator[RunEvent, None]:
        try:
            while True:
                event = await run.take()
                yield event
                if is_terminal(event):
                    return
        finally:
            run.drop()
            if self._run is run and not run.is_over:
                self.cancel(run.name.job_id, run.name.attempt)

    # What the thread does.

    def _supervise(self) -> None:
        deaths = 0
        while not self._closing.is_set():
            self._has_loaded = self._has_worked = False
            self._tell(self._went_on_loading, Loading("Starting the worker", 0.0))
            reason = self._live()
            deaths = 1 if self._has_worked else deaths + 1
            self._tell(self._went_down, reason)
            self._closing.wait(backoff_s(deaths, self._plan.first_backoff_s))

    def _live(self) -> str:
        """Start a worker, hear it to its end, and return how it ended."""
        plan = self._plan
        try:
            with tempfile.TemporaryDirectory(
                prefix="cosmos-", dir=plan.options.scratch, ignore_cleanup_errors=True
            ) as own:
                options = replace(plan.options, scratch=own)
                return self._attend(WorkerProcess(plan.worker, plan.device, options))
        except OSError as error:
            return f"The worker could not be started: {error}."

    def _attend(self, process: WorkerProcess) -> str:
        with self._process_lock:
            self._process, self._ended_because = process, None
            if self._closing.is_set():
                self._ended_because = CLOSED
                process.ask_to_end()
        hung = threading.Timer(self._plan.load_limit_s, self._give_up_loading)
        hung.daemon = True
        hung.start()
        said = self._listen(process)
        hung.cancel()
        code = process.reap()
        return self._ended_because or said or exit_sentence(code)

    def _give_up_loading(self) -> None:
        if not self._has_loaded:
            self.kill_process(
                f"Loading took longer than {self._plan.load_limit_s:,.0f} seconds, "
                "so the worker was taken to hang and was stopped."
            )

    def _listen(self, process: WorkerProcess) -> str | None:
        """Hear the worker until it ends; what it said or did that explains it, if anything."""
        reason: str | None = None
        try:
            while (event := process.receive()) is not None:
                if self._has_loaded:
                    self._hear(event)
                elif isinstance(event, Failed):
                    reason = event.message
                else:
                    self._hear_loading(event, process)
        except BadMessage as error:
            process.kill()
            reason = f"{error} The worker was stopped."
        return reason

    def _hear_loading(self, event: WorkerEvent, process: WorkerProcess) -> None:
        match event:
            case Loading():
                self._tell(self._went_on_loading, event)
            case Ready():
                self._has_loaded = True
                self._tell(self._came_up, event, process)
            case _:
                raise BadMessage(f"A worker sent {type(event).__name__} before it had loaded.")

    def _hear(self, event: WorkerEvent) -> None:
        run = self._run
        match event:
            case Loading() | Ready():
                raise BadMessage(f"A worker sent {type(event).__name__} when it had loaded.")
            case Idle() if run is not None and run.is_over:
                self._has_worked = True
                self._tell(self._became_idle, run, event.memory)
            case Idle():
                raise BadMessage("A worker said that it is idle before its run was over.")
            case _ if run is not None and not run.is_over:
                if _is_shortage(event):
                    self._tell(self._ran_out_of_memory)
                run.deliver(event)
            case _:
                raise BadMessage(f"A worker sent {type(event).__name__} outside a run.")

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        self._loop.call_soon_threadsafe(what, *arguments)

    # What the event loop is told.

    def _went_on_loading(self, loading: Loading) -> None:
        self.view = replace(self.view, state=SlotState.LOADING, loading=loading)
        self._publish(SlotLoading(self.view.name, loading))

    def _came_up(self, ready: Ready, process: WorkerProcess) -> None:
        self._worker = process
        self.view = replace(
            self.view,
            state=SlotState.IDLE,
            loading=None,
            device_name=ready.device,
            checkpoint_digest=ready.checkpoint_digest,
            attention=ready.attention,
            memory=ready.memory,
        )
        self._publish(SlotUp(self.view.name, ready.checkpoint_digest))

    def _ran_out_of_memory(self) -> None:
        self.view = replace(self.view, memory_shortages=self.view.memory_shortages + 1)

    def _became_idle(self, run: RunEvents, memory: MemoryPlan) -> None:
        if self._run is not run:
            return  # it said so twice
        self._run = None
        self._deaths.clear()
        self.view = replace(self.view, state=SlotState.IDLE, memory=memory)
        self._publish(SlotIdle(self.view.name))

    def _went_down(self, reason: str) -> None:
        run, self._run, self._worker = self._run, None, None
        self._deaths.add()
        self.view = replace(self.view, state=SlotState.DOWN, loading=None, down_reason=reason)
        self._publish(SlotDown(self.view.name, reason))
        if run is not None:
            run.end(reason)


def _is_shortage(event: WorkerEvent) -> bool:
    """Whether a run has run out of memory, be it that it begins again or that it ends so."""
    return isinstance(event, Restarted) or (
        isinstance(event, Failed) and event.code == OutOfMemory.code
    )


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
