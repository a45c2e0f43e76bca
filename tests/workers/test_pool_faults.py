"""Workers that fail, die or hang, and pools that end: each is explained, nothing is left."""

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from killed_programs import child_of_killed
from pools import SLOT, Watched, local_pool, order, running, step, worker_process
from process_signals import blocked_by

from pipeline.child_process import STOP_SIGNALS
from pipeline.progress import StepDone
from server.data_folder import RUN_MARKER
from server.tasks import backoff_s
from server.workers.local_pool import LocalPool
from server.workers.loop import WorkerOptions
from server.workers.messages import Done, Failed
from server.workers.pool import SlotDown, SlotUnavailable, SlotUp, WorkerDied, WorkerTaken
from server.workers.process import WorkerProcess, exit_sentence
from server.workers.supervisor import MAX_BACKOFF_S


@pytest.fixture
async def pool() -> AsyncIterator[Watched]:
    async with running(local_pool()) as watched:
        await watched.until(SlotUp)
        yield watched


# Workers that fail, and live on.


async def test_an_unforeseen_error_tells_the_client_nothing_of_its_inside(
    capfd: pytest.CaptureFixture[str],
) -> None:
    # The worker is started here, because a fixture's stderr is not yet the captured one.
    async with running(local_pool()) as pool:
        await pool.until(SlotUp)
        failed = (await pool.run(order("raise")))[-1]
        assert isinstance(failed, Failed)
        assert failed.code == "internal_error"
        assert "secret" not in failed.message
        assert isinstance((await pool.run(order()))[-1], Done)
    assert "RuntimeError: a secret that no client may see" in capfd.readouterr().err


async def test_what_a_worker_prints_goes_to_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    async with running(local_pool()) as pool:
        await pool.until(SlotUp)
        assert isinstance((await pool.run(order("print")))[-1], Done)
    captured = capfd.readouterr()
    assert "a line on stdout" in captured.err
    assert captured.out == ""


# Workers that die, or have to.


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("killed", "The worker was killed, probably because the machine is out of memory."),
        ("segfault", "The worker crashed (SIGSEGV)."),
        ("exit", "The worker ended with exit code 3."),
        ("rank", "One of the worker's processes failed, as its log describes"),
        ("garbage", "Something wrote to its pipe that is no message"),
        ("nonsense", "the unknown type 'Boo'. The worker was stopped."),
        ("idle", "A worker sent Idle while its slot was busy. The worker was stopped."),
    ],
)
async def test_a_worker_that_dies_is_explained_and_replaced(
    pool: Watched, fault: str, reason: str
) -> None:
    said = await pool.fails(order(fault))
    assert reason in said
    assert await pool.until(SlotDown) == SlotDown(SLOT, said)
    assert pool.pool.slots()[0].down_reason == said
    await pool.until(SlotUp)
    assert isinstance((await pool.run(order()))[-1], Done)


@pytest.mark.parametrize("fault", ["stopped", "hang", "half"])
async def test_a_worker_that_says_nothing_more_can_be_killed(pool: Watched, fault: str) -> None:
    with pytest.raises(WorkerDied, match=r"^It took too long\.$"):
        async with pool.pool.run(SLOT, order(fault)) as events:
            async for event in events:
                if isinstance(event, StepDone):
                    await pool.pool.kill(SLOT, "It took too long.")
    await pool.until(SlotUp)
    assert isinstance((await pool.run(order()))[-1], Done)


async def test_a_slot_can_be_killed_while_nobody_takes_the_events_of_its_run(
    pool: Watched,
) -> None:
    async with pool.pool.run(SLOT, order("flood")) as events:
        await step(events, 2)
        await pool.pool.kill(SLOT)
        await pool.until(SlotUp)
    assert isinstance((await pool.run(order()))[-1], Done)


async def test_what_a_worker_started_ends_with_it(pool: Watched) -> None:
    async with pool.pool.run(SLOT, order("child; hang 2")) as events:
        await step(events, 2)
        worker = worker_process()
        (child,) = worker.children()
        worker.kill()
        with pytest.raises(WorkerDied):
            await anext(events)
    await asyncio.to_thread(child.wait)


async def test_a_worker_leads_its_own_session_and_is_ended_by_no_stop_signal(
    pool: Watched,
) -> None:
    worker = worker_process()
    assert os.getsid(worker.pid) == worker.pid
    assert blocked_by(worker.pid).issuperset(STOP_SIGNALS)
    for number in STOP_SIGNALS:
        worker.send_signal(number)
    assert isinstance((await pool.run(order()))[-1], Done)


async def test_a_cpu_worker_gives_memory_back_and_sees_no_gpu(pool: Watched) -> None:
    environment = worker_process().environ()
    assert environment["MALLOC_MMAP_THRESHOLD_"] == "4194304"
    assert environment["MALLOC_TRIM_THRESHOLD_"] == "8388608"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("device", "visible", "interface"), [("cuda:3", "3", None), ("cuda:3+cuda:1", "3,1", "lo")]
)
async def test_a_gpu_worker_sees_its_gpus_and_calls_them_cuda(
    device: str, visible: str, interface: str | None
) -> None:
    options = WorkerOptions(weights="")
    async with running(LocalPool("workers:ScriptedWorker", options, [device])) as watched:
        await watched.until(SlotUp)
        environment = worker_process().environ()
        assert environment["CUDA_VISIBLE_DEVICES"] == visible
        assert environment.get("NCCL_SOCKET_IFNAME") == interface
        assert watched.pool.slots()[0].device_name == "scripted cuda"


@pytest.mark.parametrize(
    ("worker", "reason"),
    [
        ("workers:LoadFails", "ValueError: The transformer lacks the tensor 'proj_out.weight'."),
        ("workers:LoadDies", "The worker was killed, probably"),
        ("workers:NoSuchWorker", "There is no worker 'workers:NoSuchWorker'"),
        ("no.such.module:Worker", "There is no worker 'no.such.module:Worker'"),
    ],
)
async def test_a_worker_that_cannot_load_says_why_and_is_tried_again(
    worker: str, reason: str
) -> None:
    async with running(local_pool(worker)) as watched:
        for _ in range(2):
            assert reason in (await watched.until(SlotDown)).reason


@pytest.mark.parametrize(
    ("owner", "method", "reason"),
    [
        (WorkerProcess, "receive", "The server met an error of its own"),
        (threading.Thread, "start", "could not be started: can't start new thread"),
    ],
)
async def test_a_slot_outlives_an_error_of_its_own_thread(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str, reason: str
) -> None:
    original = getattr(owner, method)
    errors = iter([RuntimeError("can't start new thread")])

    def fail_once(itself: Any) -> Any:
        if getattr(itself, "name", "to cpu") == "to cpu":
            for error in errors:
                raise error
        return original(itself)

    monkeypatch.setattr(owner, method, fail_once)
    async with running(local_pool()) as watched:
        assert reason in (await watched.until(SlotDown)).reason
        await watched.until(SlotUp)
        assert isinstance((await watched.run(order()))[-1], Done)


async def test_a_worker_that_cannot_even_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    async with running(local_pool()) as watched:
        assert "could not be started" in (await watched.until(SlotDown)).reason
        (tmp_path / "missing").mkdir()
        await watched.until(SlotUp)


def test_the_wait_before_another_start_doubles_up_to_a_minute() -> None:
    waits = [backoff_s(deaths, 1.0, MAX_BACKOFF_S) for deaths in range(1, 9)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff_s(1_000_000, 1.0, MAX_BACKOFF_S) == 60


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (0, "The worker ended with exit code 0."),
        (-9, "The worker was killed, probably because the machine is out of memory."),
        (-6, "The worker crashed (SIGABRT)."),
        (-7, "The worker crashed (SIGBUS)."),
        (-11, "The worker crashed (SIGSEGV)."),
        (-15, "The worker was ended from outside (SIGTERM)."),
        (-63, "The worker was ended from outside (signal 63)."),
    ],
)
def test_exit_codes_become_sentences(code: int, sentence: str) -> None:
    assert exit_sentence(code) == sentence


# Ending.


@pytest.mark.parametrize("prompt", ["sleep 3600", "hang", "stopped", "flood"])
async def test_closing_the_pool_ends_a_run_and_leaves_no_process(prompt: str) -> None:
    async with AsyncExitStack() as stack:
        async with running(local_pool()) as watched:
            await watched.until(SlotUp)
            run = watched.pool.run(SLOT, order(prompt, steps=1))
            events = await stack.enter_async_context(run)
            if prompt != "sleep 3600":
                await step(events)
            worker = worker_process()
        assert not worker.is_running()
        with pytest.raises(WorkerTaken, match="The server is stopping"):
            [_ async for _ in events]
    assert [change async for change in watched.changes][-1] == SlotDown(
        SLOT, "The server is stopping."
    )


async def test_a_slot_that_is_about_to_end_takes_no_order(pool: Watched) -> None:
    slots = pool.pool
    assert isinstance(slots, LocalPool)
    slots._slots[SLOT].ask_to_end("It ends.")
    with pytest.raises(SlotUnavailable):
        async with slots.run(SLOT, order()):
            pass


async def test_a_pool_that_was_never_started_can_be_closed() -> None:
    never_started = Watched(local_pool())
    await never_started.pool.close()
    assert [change async for change in never_started.changes] == [], "what waits for it ends"


async def test_the_files_of_a_worker_that_dies_go_with_it(
    pool: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    await pool.fails(order("killed"))
    await pool.until(SlotUp)
    (scratch,) = tmp_path.iterdir()
    assert (scratch / RUN_MARKER).is_file()
    (scratch / "video.mp4").write_bytes(b"unfinished")
    await pool.fails(order("killed"))
    await pool.until(SlotDown)
    assert not scratch.exists()


@pytest.mark.parametrize("prompt", ["hang", "stopped"])
def test_no_worker_outlives_a_server_that_is_killed(prompt: str) -> None:
    server = """
        import asyncio, sys
        from pools import SLOT, local_pool, order, running, step, worker_process
        from server.workers.pool import SlotUp

        async def main():
            async with running(local_pool()) as watched:
                await watched.until(SlotUp)
                async with watched.pool.run(SLOT, order(sys.argv[1])) as events:
                    await step(events)
                    print(worker_process().pid, flush=True)
                    await asyncio.sleep(3600)

        asyncio.run(main())
    """
    child_of_killed(server, prompt).wait(timeout=30)
