"""Workers of several processes: they keep the contract, and end together."""

import asyncio
import sys
import threading

import psutil
import pytest
from pools import Watched, order, running, worker_process
from stand_ins import stand_in
from test_pool import keeps_the_contract

from pipeline.progress import StepDone
from pipeline.ranks import start_rank
from server.workers.local_pool import LocalPool
from server.workers.loop import WorkerOptions
from server.workers.messages import WorkOrder
from server.workers.pool import SlotDown, SlotUp, WorkerDied


def pool_of(worker: str, device: str) -> LocalPool:
    options = WorkerOptions(weights=str(stand_in()))
    return LocalPool(worker, options, [device], first_backoff_s=60, ending_grace_s=0.5)


async def dies_after_a_step(watched: Watched, work: WorkOrder, *, hung: bool) -> str:
    """What is said when the second process stops after a step, and is killed unless it hangs."""
    worker = worker_process()
    (rank,) = worker.children()
    with pytest.raises(WorkerDied) as death:
        async with watched.pool.run(watched.slot, work) as events:
            async for event in events:
                if isinstance(event, StepDone) and event.step == 1:
                    rank.suspend() if hung else rank.kill()
                    if hung:
                        await watched.pool.kill(watched.slot, "It took too long.")
    # The pool waits for its worker: a test that did so first would leave it without an exit code.
    assert (await watched.until(SlotDown)).reason == str(death.value)
    assert not worker.is_running()
    _, alive = await asyncio.to_thread(psutil.wait_procs, [rank], 30)
    assert not alive
    return str(death.value)


@pytest.mark.slow
async def test_two_processes_keep_the_contract_and_one_that_hangs_ends_both() -> None:
    async with running(pool_of("server.workers.gpu:GpuWorker", "cpu+cpu")) as watched:
        await watched.until(SlotUp)
        (slot,) = watched.pool.slots()
        assert (slot.name, slot.device_name) == ("cpu+cpu", "2 x CPU")
        assert len(worker_process().children()) == 1
        await keeps_the_contract(watched, order(steps=50))
        said = await dies_after_a_step(watched, order(steps=50), hung=True)
        assert said == "It took too long."


async def test_a_process_that_hangs_ends_with_the_worker() -> None:
    async with running(pool_of("workers:TwoProcesses", "cpu+cpu")) as watched:
        await watched.until(SlotUp)
        said = await dies_after_a_step(watched, order("hang 2", steps=50), hung=True)
        assert said == "It took too long."


async def test_a_process_that_is_killed_ends_the_worker() -> None:
    async with running(pool_of("workers:TwoProcesses", "cpu+cpu")) as watched:
        await watched.until(SlotUp)
        said = await dies_after_a_step(watched, order("hang 2", steps=50), hung=False)
        assert said == (
            "One of the worker's processes failed, as its log describes: all of them were ended."
        )


@pytest.mark.parametrize(
    ("program", "heard"),
    [
        ("raise SystemExit(3)", ["The process of rank 1 ended with exit code 3"]),
        ("import os; os.kill(os.getpid(), 9)", ["The process of rank 1 ended with signal 9"]),
        ("pass", []),
    ],
)
async def test_a_rank_that_fails_is_heard_of(program: str, heard: list[str]) -> None:
    sentences: list[str] = []
    start_rank(1, [sys.executable, "-c", program], sentences.append)
    for thread in threading.enumerate():
        if thread.name == "rank 1":
            await asyncio.to_thread(thread.join)
    assert [sentence.partition(",")[0] for sentence in sentences] == heard
