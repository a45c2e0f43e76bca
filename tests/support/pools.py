"""Local pools for tests, with scripted workers unless told otherwise."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from in_process_pool import InProcessPool

from pipeline.progress import StepDone
from pipeline.spec import Pixels, VideoSpec
from server.workers.local_pool import LocalPool
from server.workers.loop import WorkerOptions
from server.workers.messages import RunEvent, WorkOrder
from server.workers.pool import Pool, SlotChange, SlotIdle, WorkerDied

SLOT = "cpu"
PICTURE = Pixels(96, 64, bytes(range(256)) * 72)

Change = TypeVar("Change", bound=SlotChange)


def order(
    prompt: str = "a calm sea", *, steps: int = 2, seed: int = 1, job_id: str = "job"
) -> WorkOrder:
    spec = VideoSpec(prompt=prompt, seed=seed, num_frames=9, num_inference_steps=steps)
    return WorkOrder(job_id=job_id, attempt=1, spec=spec, media={"image": [PICTURE]})


def local_pool(
    worker: str = "workers:ScriptedWorker", weights: Path = Path(), num_slots: int = 1
) -> LocalPool:
    options = WorkerOptions(weights=str(weights))
    return LocalPool(worker, options, ["cpu"] * num_slots, first_backoff_s=0.01, ending_grace_s=0.5)


def in_process_pool(
    worker: str = "workers:ScriptedWorker", weights: Path = Path(), num_slots: int = 1
) -> InProcessPool:
    return InProcessPool(worker, WorkerOptions(weights=str(weights)), ["cpu"] * num_slots)


class Watched:
    """A running pool, with its changes."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.changes = pool.changes()

    @property
    def slot(self) -> str:
        """Its first slot."""
        return self.pool.slots()[0].name

    async def until(self, kind: type[Change]) -> Change:
        """Wait for the next change of this kind."""
        async for change in self.changes:
            if isinstance(change, kind):
                return change
        raise AssertionError(f"the pool was closed before {kind.__name__}")

    async def run(self, work: WorkOrder) -> list[RunEvent]:
        """Every event of a run, once the slot is idle again."""
        async with self.pool.run(self.slot, work) as running:
            events = [event async for event in running]
        await self.until(SlotIdle)
        return events

    async def fails(self, work: WorkOrder) -> str:
        """What is said when the worker dies of this order."""
        with pytest.raises(WorkerDied) as death:
            async with self.pool.run(self.slot, work) as events:
                [_ async for _ in events]
        return str(death.value)


@asynccontextmanager
async def running(pool: Pool) -> AsyncIterator[Watched]:
    """Start a pool, and close it at the end of the block."""
    watched = Watched(pool)
    await pool.start()
    try:
        while not pool.slots():  # a cluster has to be connected to
            await asyncio.sleep(0.01)
        yield watched
    finally:
        await pool.close()


def worker_process() -> psutil.Process:
    """The one worker process of this test; servers that other tests share are no workers."""
    (process,) = (
        child for child in psutil.Process().children() if "workers.loop" in "".join(child.cmdline())
    )
    return process


async def step(events: AsyncIterator[RunEvent], number: int = 1) -> None:
    """Take events up to this step's."""
    async for event in events:
        if isinstance(event, StepDone) and event.step == number:
            return
    raise AssertionError(f"the run ended before step {number}")
