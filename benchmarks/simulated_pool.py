"""A pool whose workers only let time pass: slots on nodes, which die, leave and come.

It speaks the protocol of `server.workers.pool`, so the dispatcher of a server runs on it. A run
sends the events that a worker would send: its stages, its steps, a video in chunks.
"""

import asyncio
import contextlib
import hashlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

from pipeline.progress import Stage, StageStarted, StepDone
from server.workers.messages import (
    MAX_CHUNK_BYTES,
    Artifact,
    CancelledEvent,
    Chunk,
    Done,
    RunEvent,
    WorkOrder,
    is_terminal,
)
from server.workers.pool import (
    CLOSED,
    KILLED,
    SlotChange,
    SlotDown,
    SlotIdle,
    SlotState,
    SlotUnavailable,
    SlotUp,
    SlotView,
    WorkerDied,
)
from server.workers.streams import MAX_WAITING_EVENTS, Changes
from server.workers.verdicts import Verdict

WIDTH, HEIGHT, FRAMES = 1280, 704, 93
SIGMA = 0.7
"""Of the lognormal times."""
VIDEO_BYTES = 4_500_000
"""As the longest of `benchmarks/results/encodings-cpu.json` in fal's default quality."""
DIED = "The simulated worker died."
LEFT = "The simulated node left."


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How the workers of a pool behave.

    A run takes `least_s` and, beside that, a lognormal time of this median. `deaths` is
    the share of the runs that their worker dies of, at a random moment; a new worker is up
    `load_s` later. The first run of a slot is cut short at random, as if it had begun before: else
    all would end together.
    """

    slots: int
    slots_of_node: int = 8
    least_s: float = 0.0
    median_s: float = 0.0
    steps: int = 35
    deaths: float = 0.0
    load_s: float = 0.0
    seed: int = 1


@dataclass(slots=True)
class SimulatedRun:
    """One run. Times are those of `time.monotonic`; `ended_at` is when its last event was sent.

    `work_s` is what the worker itself takes, if nothing holds it up.
    """

    slot: str
    started_at: float
    work_s: float
    ended_at: float | None = None


class SimulatedPool:
    """A `Pool` of `workers`. `runs` are all that were begun, in that order."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.runs: list[SimulatedRun] = []
        self.random = random.Random(workers.seed)
        self.changed = Changes()
        self.video = self.random.randbytes(VIDEO_BYTES)
        self.described = Artifact(
            kind="video",
            name="video.mp4",
            content_type="video/mp4",
            size=len(self.video),
            sha256=hashlib.sha256(self.video).hexdigest(),
            width=WIDTH,
            height=HEIGHT,
            frames=FRAMES,
        )
        names = [f"slot-{number}" for number in range(workers.slots)]
        size = workers.slots_of_node
        self._nodes = [names[start : start + size] for start in range(0, len(names), size)]
        self._slots: dict[str, _Slot] = {}

    async def start(self) -> None:
        for node in range(len(self._nodes)):
            self.join(node)

    async def close(self) -> None:
        for slot in self._slots.values():
            slot.end(CLOSED)
        self.changed.publish(None)

    def join(self, node: int) -> None:
        """Have the slots of a node, whose workers load."""
        for name in self._nodes[node]:
            self._slots[name] = _Slot(name, self)
            self._slots[name].load()

    def leave(self, node: int) -> None:
        """Have the slots of a node no more."""
        for name in self._nodes[node]:
            self._slots.pop(name).end(LEFT)

    def slots(self) -> Sequence[SlotView]:
        return [slot.view for slot in self._slots.values()]

    def changes(self) -> AsyncGenerator[SlotChange, None]:
        return self.changed.read()

    def run(
        self, slot: str, order: WorkOrder
    ) -> AbstractAsyncContextManager[AsyncIterator[RunEvent]]:
        if slot not in self._slots:
            raise SlotUnavailable(f"The slot {slot} is gone.")
        return self._slots[slot].run(order)

    async def cancel(self, slot: str, job_id: str, attempt: int) -> None:
        if slot in self._slots:
            self._slots[slot].cancel(job_id, attempt)

    async def answer(self, slot: str, verdict: Verdict) -> None:
        """No simulated worker asks for one."""

    async def kill(self, slot: str, reason: str = KILLED) -> None:
        if slot in self._slots:
            self._slots[slot].end(reason)
            self._slots[slot].load()


class _Slot:
    def __init__(self, name: str, pool: SimulatedPool) -> None:
        self.view = SlotView(name=name, device="simulated", state=SlotState.LOADING)
        self._pool = pool
        self._order: WorkOrder | None = None
        self._events: asyncio.Queue[RunEvent | WorkerDied] = asyncio.Queue()
        self._doing: asyncio.Task[None] | None = None
        self._is_first = True

    def load(self) -> None:
        self._doing = asyncio.create_task(self._load())

    def end(self, reason: str) -> None:
        """End the worker, and the run that it does."""
        if self._doing is not None:
            self._doing.cancel()
        if self._order is not None:
            self._stop_with(WorkerDied(reason))
        self._tell(SlotDown(self.view.name, reason), SlotState.DOWN)

    def cancel(self, job_id: str, attempt: int) -> None:
        order = self._order
        if order is not None and (order.job_id, order.attempt) == (job_id, attempt):
            assert self._doing is not None
            self._doing.cancel()
            self._stop_with(CancelledEvent())
            self._be_idle()

    @asynccontextmanager
    async def run(self, order: WorkOrder) -> AsyncIterator[AsyncIterator[RunEvent]]:
        if self.view.state is not SlotState.IDLE:
            raise SlotUnavailable(f"The slot {self.view.name} is {self.view.state}.")
        self.view = replace(self.view, state=SlotState.BUSY)
        events: asyncio.Queue[RunEvent | WorkerDied] = asyncio.Queue(MAX_WAITING_EVENTS)
        self._order, self._events = order, events
        doing = self._doing = asyncio.create_task(self._work(events))
        try:
            yield _read(events)
        finally:
            doing.cancel()
            if self._order is order:
                self._be_idle()

    async def _load(self) -> None:
        await asyncio.sleep(self._pool.workers.load_s)
        self._tell(SlotUp(self.view.name, "simulated"), SlotState.IDLE)

    async def _work(self, events: asyncio.Queue[RunEvent | WorkerDied]) -> None:
        pool = self._pool
        work_s = _seconds(pool.workers, pool.random)
        if self._is_first:
            work_s, self._is_first = work_s * pool.random.random(), False
        run = SimulatedRun(self.view.name, time.monotonic(), work_s)
        pool.runs.append(run)
        dies_after = run.work_s * pool.random.random() / max(pool.workers.deaths, 1e-9)
        for after_s, event in _events_of(pool, run.work_s):
            if after_s > dies_after:
                # Called back, for it ends this task.
                asyncio.get_running_loop().call_soon(self._die)
                return
            if (left_s := run.started_at + after_s - time.monotonic()) > 0:
                await asyncio.sleep(left_s)
            await events.put(event)
        run.ended_at = time.monotonic()
        self._be_idle()

    def _die(self) -> None:
        if self._order is not None:  # else its node has left meanwhile
            self.end(DIED)
            self.load()

    def _stop_with(self, last: RunEvent | WorkerDied) -> None:
        with contextlib.suppress(asyncio.QueueEmpty):
            while True:
                self._events.get_nowait()
        self._events.put_nowait(last)
        self._order = None

    def _be_idle(self) -> None:
        self._order = None
        self._tell(SlotIdle(self.view.name), SlotState.IDLE)

    def _tell(self, change: SlotChange, state: SlotState) -> None:
        self.view = replace(self.view, state=state)
        self._pool.changed.publish(change)


async def _read(events: asyncio.Queue[RunEvent | WorkerDied]) -> AsyncIterator[RunEvent]:
    while True:
        event = await events.get()
        if isinstance(event, WorkerDied):
            raise event
        yield event
        if is_terminal(event):
            return


def _seconds(workers: Workers, chance: random.Random) -> float:
    return workers.least_s + workers.median_s * chance.lognormvariate(0.0, SIGMA)


def _events_of(pool: SimulatedPool, work_s: float) -> Iterator[tuple[float, RunEvent]]:
    """What a run sends, and after how many seconds."""
    steps, video = pool.workers.steps, pool.video
    yield 0.0, StageStarted(Stage.TEXT)
    yield 0.0, StageStarted(Stage.IMAGE)
    yield 0.0, StageStarted(Stage.DENOISE)
    step_s = work_s / (steps + 1)
    for step in range(1, steps + 1):
        yield step * step_s, StepDone(step, steps, step_s, work_s - step * step_s)
    yield steps * step_s, StageStarted(Stage.DECODE)
    yield steps * step_s, StageStarted(Stage.ENCODE)
    for start in range(0, len(video), MAX_CHUNK_BYTES):
        yield work_s, Chunk(video[start : start + MAX_CHUNK_BYTES])
    yield work_s, pool.described
    yield work_s, Done("exact", {"denoise": steps * step_s, "decode": step_s})
