"""The thread of one slot: it starts a worker, reads what it sends, and replaces it when it ends.

The thread lives as long as the pool, because a worker dies with the thread that started it. Each
slot has a thread of its own, because reading waits: for a worker that stopped in the middle of a
message, and for a run whose events are not taken.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import structlog

from pipeline.errors import OutOfMemory
from pipeline.progress import Restarted
from server.tasks import backoff_s
from server.workers.loop import Cancel, Request
from server.workers.messages import (
    BadMessage,
    Failed,
    Idle,
    Loading,
    Ready,
    WorkerEvent,
    WorkOrder,
)
from server.workers.pool import SlotDown, SlotState, SlotUnavailable, WorkerTaken
from server.workers.streams import RunEvents
from server.workers.verdicts import Verdict

MAX_BACKOFF_S = 60.0
"""The longest wait before a worker that keeps ending is started again."""

_log = structlog.get_logger("server")


class RunningWorker(Protocol):
    """A worker that was started, wherever it runs. Any thread may call it; one receives."""

    def post(self, request: Request) -> None:
        """Send a request, without waiting for the worker to read it."""

    def receive(self) -> WorkerEvent | None:
        """Wait for the next event; None once no more will come, as when the worker has died.

        Raises:
            BadMessage: what arrived is not an event.
            WorkerTaken: the worker is gone, and its run is not to blame.
        """

    def ask_to_end(self) -> None:
        """Have the worker cancel its run and exit."""

    def kill(self) -> bool:
        """Kill the worker and everything that it started; False if it had ended already."""

    def reap(self) -> str:
        """Wait for the worker to be gone, and say in a sentence how it ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPlan:
    """What a slot runs, and where; see `LocalPool`.

    `start` starts a worker, for a block within which it ends.
    """

    name: str
    device: str
    start: Callable[[], AbstractContextManager[RunningWorker]]
    first_backoff_s: float
    load_limit_s: float


Report = Loading | Ready | Restarted | Failed | Idle | WorkerTaken | SlotDown
"""What the thread tells the slot; Restarted and Failed only of a run that ran out of memory."""


class Supervisor:
    """Keeps a worker alive. Its methods may be called from any thread, and do not wait."""

    def __init__(self, plan: SlotPlan, report: Callable[[Report], None]) -> None:
        """`report` is called on the event loop."""
        self._plan = plan
        self._report = report
        self._thread = threading.Thread(target=self._supervise, name=plan.name, daemon=True)
        self._closing = threading.Event()
        self._why_closing = ""
        self._failures = 0
        """How many workers have ended since one did a whole run."""

        self._lock = threading.Lock()
        """Held while other threads use the worker that lives now:"""
        self._process: RunningWorker | None = None
        self._state = SlotState.DOWN
        self._run: RunEvents | None = None
        self._reason: str | None = None
        """Why it ends; the first reason counts."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread, and with it the worker."""
        self._loop = loop
        self._thread.start()

    def begin(self, order: WorkOrder, run: RunEvents) -> None:
        """Give the idle worker an order.

        Raises:
            SlotUnavailable: the worker has just ended, or is about to.
        """
        with self._lock:
            if self._closing.is_set():
                raise SlotUnavailable(f"The slot {self._plan.name} is about to end.")
            if self._state is not SlotState.IDLE or self._process is None:
                raise SlotUnavailable(f"The worker of the slot {self._plan.name} has just ended.")
            self._state, self._run = SlotState.BUSY, run
            self._process.post(order)

    def post(self, request: Cancel | Verdict) -> None:
        """Tell the worker something of its run; it ignores what is of another."""
        with self._lock:
            if self._process is not None:
                self._process.post(request)

    def kill(self, reason: str) -> bool:
        """Kill the worker; False if it has ended already, for its own reason."""
        with self._lock:
            if self._process is None or not self._process.kill():
                return False
            self._reason = self._reason or reason
            return True

    def ask_to_end(self, reason: str) -> None:
        """Have the worker end by itself, and start no other; the first reason counts."""
        with self._lock:
            self._why_closing = self._why_closing or reason
            self._closing.set()
            if self._process is not None:
                self._reason = self._reason or reason
                self._process.ask_to_end()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended, and its worker with it, or the time is over."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    # What the thread does.

    def _supervise(self) -> None:
        while not self._closing.is_set():
            self._tell(Loading("Starting the worker", 0.0))
            reason = self._live()
            self._failures += 1
            self._tell(SlotDown(self._plan.name, reason))
            first_s = self._plan.first_backoff_s
            self._closing.wait(backoff_s(self._failures, first_s, MAX_BACKOFF_S))

    def _live(self) -> str:
        """Start a worker, hear it to its end, and return how it ended."""
        try:
            with self._plan.start() as process:
                return self._attend(process)
        except OSError as error:
            return f"The worker could not be started: {error}."
        except Exception as error:
            # The thread is the only one that this slot has.
            _log.exception("Unexpected error", during=f"starting the worker of {self._plan.name}")
            return f"The worker could not be started: {error}."

    def _attend(self, process: RunningWorker) -> str:
        with self._lock:
            self._process, self._state, self._reason = process, SlotState.LOADING, None
            if self._closing.is_set():
                self._reason = self._why_closing
                process.ask_to_end()
        try:
            while (event := process.receive()) is not None:
                self._hear(event)
        except BadMessage as error:
            self.kill(f"{error} The worker was stopped.")
        except WorkerTaken as taken:
            with self._lock:
                self._reason = self._reason or str(taken)
            self._tell(taken)
        except Exception:
            _log.exception("Unexpected error", during=f"following the worker of {self._plan.name}")
            self.kill("The server met an error of its own, so the worker was stopped.")
        ended = process.reap()
        with self._lock:
            self._state, self._run = SlotState.DOWN, None
            return self._reason or ended

    def _hear(self, event: WorkerEvent) -> None:
        """Take the worker's next message, which has to be one that its state allows."""
        match event, self._state:
            case Loading(), SlotState.LOADING:
                self._tell(event)
            case Ready(), SlotState.LOADING:
                self._state = SlotState.IDLE
                self._tell(event)
            case Failed(message=message), SlotState.LOADING:
                self._reason = self._reason or message
            case Idle(), SlotState.BUSY if self._run is not None and self._run.is_over:
                self._state, self._run, self._failures = SlotState.IDLE, None, 0
                self._tell(event)
            case ((Loading() | Ready() | Idle()), _):
                raise self._unexpected(event)
            case _ if self._run is not None and not self._run.is_over:
                match event:
                    case Restarted() | Failed(code=OutOfMemory.code):
                        self._tell(event)
                self._run.deliver(event)
            case _:
                raise self._unexpected(event)

    def _unexpected(self, event: WorkerEvent) -> BadMessage:
        return BadMessage(f"A worker sent {type(event).__name__} while its slot was {self._state}.")

    def _tell(self, report: Report) -> None:
        self._loop.call_soon_threadsafe(self._report, report)
