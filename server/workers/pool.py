"""The pool: the seam between the jobs and the devices that do them.

A pool places, starts, watches, feeds and stops workers. Which job runs next, and what becomes of
one that failed, is the dispatcher's business. `server.workers.local_pool` is the pool of this
machine.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from pipeline.memory_plan import MemoryPlan
from server.workers.messages import Loading, RunEvent, WorkOrder
from server.workers.verdicts import Verdict

KILLED = "The worker was stopped by the server."
CLOSED = "The server is stopping."

LOAD_S = 20 * 60.0
"""How long a worker may take to load its model."""


class SlotState(StrEnum):
    """What a slot is doing."""

    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotView:
    """One slot as it is now.

    `device` is what was asked for (`cpu`, `cuda:0`); `device_name`, `checkpoint_digest`,
    `attention`, `kernels`, `kernels_problem` and `versions` are what the worker reported when it
    had loaded (see `Ready`), and None or empty before. So is `memory`, which it reports after each
    run, too. `memory_shortages` counts how often runs on this slot ran
    out of memory. `down_reason` is the sentence about the last time that the slot went down, and
    stays while a new worker loads. `is_unstable` is true where workers keep ending: see
    `server.workers.slot.CrashCounter`.
    """

    name: str
    device: str
    state: SlotState
    loading: Loading | None = None
    device_name: str | None = None
    checkpoint_digest: str | None = None
    attention: str | None = None
    memory: MemoryPlan | None = None
    kernels: str | None = None
    kernels_problem: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    memory_shortages: int = 0
    down_reason: str | None = None
    is_unstable: bool = False

    @property
    def made_with(self) -> dict[str, str]:
        """What the last bits of its videos depend on, beside the checkpoint and the request."""
        known = {
            "device": self.device_name,
            "attention": self.attention,
            "kernels": self.kernels,
            **self.versions,
        }
        return {name: value for name, value in known.items() if value is not None}

    @property
    def can_work(self) -> bool:
        """Whether it has the model, busy or not, and is likely to keep it."""
        return self.state in (SlotState.IDLE, SlotState.BUSY) and not self.is_unstable


@dataclass(frozen=True, slots=True)
class SlotLoading:
    """The slot's worker is loading; `loading` says how far it is."""

    slot: str
    loading: Loading


@dataclass(frozen=True, slots=True)
class SlotUp:
    """The slot has loaded this checkpoint and is free."""

    slot: str
    checkpoint_digest: str


@dataclass(frozen=True, slots=True)
class SlotIdle:
    """The slot has let go of its last run and is free."""

    slot: str


@dataclass(frozen=True, slots=True)
class SlotDown:
    """The slot's worker has ended, for this reason; a new one will be started."""

    slot: str
    reason: str


@dataclass(frozen=True, slots=True)
class SlotGone:
    """The slot, which did nothing, is no more. One of its name may come again."""

    slot: str


SlotChange = SlotLoading | SlotUp | SlotIdle | SlotDown | SlotGone


class WorkerDied(Exception):
    """The worker ended in the middle of a run; the message is a sentence that says how."""


class WorkerTaken(WorkerDied):
    """The pool ended the worker, or lost it with its machine: the run is not to blame."""


class SlotUnavailable(Exception):
    """The slot is not idle, so it was not given the order. The job can be tried again."""


class Pool(Protocol):
    """Slots that run work orders. It is used from one event loop."""

    async def start(self) -> None:
        """Start a worker for every slot; returns while they load."""

    async def close(self) -> None:
        """End every worker; runs that are still going raise `WorkerTaken`."""

    def slots(self) -> Sequence[SlotView]:
        """Every slot as it is now, in a fixed order."""

    def changes(self) -> AsyncGenerator[SlotChange, None]:
        """Every change from this call on; ends when the pool is closed."""

    def run(
        self, slot: str, order: WorkOrder
    ) -> AbstractAsyncContextManager[AsyncIterator[RunEvent]]:
        """A block in which the order runs, with an iterator over the run's events.

        The last event is Done, CancelledEvent or Failed; the slot is free only with its own
        `SlotIdle`. A slow reader slows the worker down. Leaving the block early cancels the run.

        Raises:
            SlotUnavailable: when the block is entered and the slot is not idle.
            WorkerTaken: while iterating, when the pool ends the worker for reasons of its own.
            WorkerDied: while iterating, when the worker ends otherwise before the run does.
        """

    async def cancel(self, slot: str, job_id: str, attempt: int) -> None:
        """Ask the worker to stop this run; does nothing if it is another one that runs."""

    async def answer(self, slot: str, verdict: Verdict) -> None:
        """Give the worker a verdict that it waits for; it ignores one of another run."""

    async def kill(self, slot: str, reason: str = KILLED) -> None:
        """Kill the slot's worker at once; `reason` is what `WorkerDied` will say."""
