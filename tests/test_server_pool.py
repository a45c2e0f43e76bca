"""The pool's contract: what every worker, however it behaves, looks like from the outside."""

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from stand_ins import stand_in
from workers import CONTENT_TYPES, DIGEST, file_of

from pipeline.progress import Stage, StageStarted, StepDone
from pipeline.spec import Container, Pixels, VideoSpec
from server.events import (
    MAX_CHUNK_BYTES,
    Artifact,
    CancelledEvent,
    Chunk,
    Done,
    Failed,
    RunEvent,
    WorkOrder,
    is_terminal,
)
from server.local_pool import LocalPool
from server.local_slot import MAX_WAITING_EVENTS, backoff_s
from server.pool import (
    DeviceError,
    SlotChange,
    SlotDown,
    SlotIdle,
    SlotLoading,
    SlotState,
    SlotUnavailable,
    SlotUp,
    WorkerDied,
    devices_from,
)
from server.worker_loop import WorkerOptions
from server.worker_process import exit_sentence

SLOT = "cpu"
PICTURE = Pixels(96, 64, bytes(range(256)) * 72)

Change = TypeVar("Change", bound=SlotChange)


def order(
    prompt: str = "a calm sea", *, steps: int = 2, seed: int = 1, job_id: str = "job"
) -> WorkOrder:
    spec = VideoSpec(prompt=prompt, seed=seed, num_frames=9, num_inference_steps=steps)
    return WorkOrder(job_id=job_id, attempt=1, spec=spec, media={"image": PICTURE})


def local_pool(
    worker: str = "workers:ScriptedWorker", weights: Path = Path(), num_slots: int = 1
) -> LocalPool:
    options = WorkerOptions(weights=str(weights))
    return LocalPool(worker, options, ["cpu"] * num_slots, first_backoff_s=0.01, ending_grace_s=0.5)


class Watched:
    """A running pool, with its changes."""

    def __init__(self, pool: LocalPool) -> None:
        self.pool = pool
        self.changes = pool.changes()

    async def until(self, kind: type[Change]) -> Change:
        """Wait for the next change of this kind."""
        async for change in self.changes:
            if isinstance(change, kind):
                return change
        raise AssertionError(f"the pool was closed before {kind.__name__}")

    async def run(self, work: WorkOrder) -> list[RunEvent]:
        """Every event of a run, once the slot is idle again."""
        events = [event async for event in self.pool.run(SLOT, work)]
        await self.until(SlotIdle)
        return events

    async def fails(self, work: WorkOrder) -> str:
        """What is said when the worker dies of this order."""
        with pytest.raises(WorkerDied) as death:
            async for _ in self.pool.run(SLOT, work):
                pass
        return str(death.value)


@asynccontextmanager
async def running(pool: LocalPool) -> AsyncIterator[Watched]:
    watched = Watched(pool)
    await pool.start()
    try:
        yield watched
    finally:
        await pool.close()


@pytest.fixture
async def pool() -> AsyncIterator[Watched]:
    async with running(local_pool()) as watched:
        await watched.until(SlotUp)
        yield watched


def worker_of(watched: Watched) -> psutil.Process:
    """The one worker process of this test."""
    (process,) = psutil.Process().children()
    return process


async def step(events: AsyncIterator[RunEvent], number: int = 1) -> None:
    """Take events up to this step's."""
    async for event in events:
        if isinstance(event, StepDone) and event.step == number:
            return
    raise AssertionError(f"the run ended before step {number}")


# The contract of every worker.


async def keeps_the_contract(watched: Watched, long: WorkOrder) -> None:
    events = await watched.run(order())
    assert_is_whole_run(events)

    cancelled = [event async for event in cancelled_after_a_step(watched, long)]
    assert isinstance(cancelled[-1], CancelledEvent)
    assert cancelled[-1].stage == Stage.DENOISE
    steps = [event.step for event in cancelled if isinstance(event, StepDone)]
    assert 1 <= len(steps) < long.spec.num_inference_steps
    await watched.until(SlotIdle)

    again = await watched.run(order())
    assert artefact(again) == artefact(events), "what was cancelled touches the next run"


async def cancelled_after_a_step(watched: Watched, work: WorkOrder) -> AsyncIterator[RunEvent]:
    async for event in watched.pool.run(SLOT, work):
        yield event
        if isinstance(event, StepDone) and event.step == 1:
            await watched.pool.cancel(SLOT, work.job_id, work.attempt)


def assert_is_whole_run(events: list[RunEvent]) -> None:
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    assert stages == sorted(stages, key=list(Stage).index)
    steps = [(event.step, event.num_steps) for event in events if isinstance(event, StepDone)]
    assert steps == [(1, 2), (2, 2)]
    assert [type(event) for event in events if is_terminal(event)] == [Done]
    done = events[-1]
    assert isinstance(done, Done)
    assert done.tier == "exact"
    assert set(done.stage_seconds) == {stage.value for stage in stages}
    assert all(len(event.data) <= MAX_CHUNK_BYTES for event in events if isinstance(event, Chunk))
    described, data = artefact(events)
    assert isinstance(events[-2], Artifact)
    assert described.size == len(data) > 0
    assert described.sha256 == hashlib.sha256(data).hexdigest()
    assert (described.kind, described.frames) == ("video", 9)
    assert described.name == "video.mp4"
    assert described.content_type == "video/mp4"


def artefact(events: list[RunEvent]) -> tuple[Artifact, bytes]:
    (described,) = [event for event in events if isinstance(event, Artifact)]
    return described, b"".join(event.data for event in events if isinstance(event, Chunk))


async def test_the_scripted_worker_keeps_the_contract(pool: Watched) -> None:
    await keeps_the_contract(pool, order("sleep 0.05", steps=50))


async def test_the_real_worker_keeps_the_contract() -> None:
    async with running(local_pool("server.worker:GpuWorker", stand_in())) as watched:
        assert len((await watched.until(SlotUp)).checkpoint_digest) == 64
        await keeps_the_contract(watched, order(steps=50))


# What a good worker does.


async def test_a_slot_tells_of_its_loading_and_then_that_it_is_up(tmp_path: Path) -> None:
    (tmp_path / "loading").touch()
    async with running(local_pool("workers:SlowLoad", tmp_path)) as watched:
        assert watched.pool.slots()[0].state is SlotState.LOADING
        while (await watched.until(SlotLoading)).loading.text != "Waiting for the file to go":
            pass
        (view,) = watched.pool.slots()
        assert view.loading is not None
        assert view.loading.fraction == 0.25
        with pytest.raises(SlotUnavailable, match="loading"):
            watched.pool.run(SLOT, order())
        (tmp_path / "loading").unlink()
        assert await watched.until(SlotUp) == SlotUp(SLOT, DIGEST)
        (view,) = watched.pool.slots()
        assert (view.state, view.checkpoint_digest) == (SlotState.IDLE, DIGEST)
        assert (view.device, view.device_name) == ("cpu", "scripted cpu")


async def test_a_slot_is_busy_from_the_call_on_until_its_worker_is_idle(pool: Watched) -> None:
    events = pool.pool.run(SLOT, order())
    assert pool.pool.slots()[0].state is SlotState.BUSY
    with pytest.raises(SlotUnavailable, match="busy"):
        pool.pool.run(SLOT, order())
    assert isinstance([event async for event in events][-1], Done)
    await pool.until(SlotIdle)
    assert pool.pool.slots()[0].state is SlotState.IDLE


async def test_a_file_of_several_chunks_arrives_whole(pool: Watched) -> None:
    work = order(f"bytes {2 * MAX_CHUNK_BYTES + 1}")
    events = await pool.run(work)
    sizes = [len(event.data) for event in events if isinstance(event, Chunk)]
    assert sizes == [MAX_CHUNK_BYTES, MAX_CHUNK_BYTES, 1]
    assert artefact(events)[1] == file_of(work, 2 * MAX_CHUNK_BYTES + 1)


async def test_the_file_depends_on_the_seed(pool: Watched) -> None:
    first, second = [artefact(await pool.run(order(seed=seed)))[1] for seed in (1, 2)]
    assert first != second


async def test_two_slots_run_side_by_side() -> None:
    async with running(local_pool(num_slots=2)) as watched:
        names = [view.name for view in watched.pool.slots()]
        assert names == ["cpu", "cpu-2"]
        assert {(await watched.until(SlotUp)).slot for _ in names} == set(names)
        runs = [watched.pool.run(name, order()) for name in names]
        assert [view.state for view in watched.pool.slots()] == [SlotState.BUSY] * 2
        for events in runs:
            assert isinstance([event async for event in events][-1], Done)


@pytest.mark.parametrize("container", Container)
def test_every_container_has_a_suffix_that_the_test_workers_know(container: Container) -> None:
    assert container.suffix in CONTENT_TYPES


# Cancelling.


async def test_a_late_cancel_does_not_hit_the_next_run(pool: Watched) -> None:
    await pool.run(order(job_id="first"))
    events = pool.pool.run(SLOT, order("sleep 0.01", steps=5, job_id="second"))
    await pool.pool.cancel(SLOT, "first", 1)
    await pool.pool.cancel(SLOT, "second", 2)
    assert isinstance([event async for event in events][-1], Done)


async def test_leaving_a_run_early_cancels_it(pool: Watched) -> None:
    async with aclosing(pool.pool.run(SLOT, order("sleep 3600"))) as events:
        async for event in events:
            if isinstance(event, StageStarted) and event.stage is Stage.DENOISE:
                break
    await pool.until(SlotIdle)
    assert isinstance((await pool.run(order()))[-1], Done)


async def test_a_flood_of_chunks_waits_in_the_worker_and_not_in_our_memory(pool: Watched) -> None:
    worker, ours = worker_of(pool), psutil.Process()
    async with aclosing(pool.pool.run(SLOT, order("flood"))) as events:
        await step(events, 2)
        before, spent = ours.memory_info().rss, [-1.0, 0.0]
        while spent[-1] != spent[-2]:  # until the worker works no more, because it waits for us
            grown = ours.memory_info().rss - before
            assert grown < 4 * MAX_WAITING_EVENTS * MAX_CHUNK_BYTES
            await asyncio.sleep(0.2)
            times = worker.cpu_times()
            spent.append(times.user + times.system)
    await pool.until(SlotIdle)


# Workers that fail, and live on.


async def test_an_input_error_names_the_field_and_the_limit(pool: Watched) -> None:
    events = await pool.run(order("refuse"))
    assert events[-1] == Failed(
        code="image_too_small",
        message="The picture is too small.",
        field="image_url",
        context={"min_width": 64},
    )


async def test_too_little_memory_is_worth_another_try(pool: Watched) -> None:
    failed = (await pool.run(order("memory")))[-1]
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == ("out_of_memory", True)


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
        ("garbage", "Something wrote to its pipe that is no message"),
        ("nonsense", "the unknown type 'Boo'. The worker was stopped."),
        ("idle", "it is idle before its run was over. The worker was stopped."),
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
        async for event in pool.pool.run(SLOT, order(fault)):
            if isinstance(event, StepDone):
                await pool.pool.kill(SLOT, "It took too long.")
    await pool.until(SlotUp)
    assert isinstance((await pool.run(order()))[-1], Done)


async def test_a_slot_can_be_killed_while_nobody_takes_the_events_of_its_run(
    pool: Watched,
) -> None:
    async with aclosing(pool.pool.run(SLOT, order("flood"))) as events:
        await step(events, 2)
        await pool.pool.kill(SLOT)
        await pool.until(SlotUp)


async def test_what_a_worker_started_ends_with_it(pool: Watched) -> None:
    events = pool.pool.run(SLOT, order("child; hang 2"))
    await step(events, 2)
    worker = worker_of(pool)
    (child,) = worker.children()
    worker.kill()
    with pytest.raises(WorkerDied):
        await anext(events)
    await asyncio.to_thread(child.wait)


async def test_a_worker_leads_its_own_session_and_ignores_ctrl_c(pool: Watched) -> None:
    worker = worker_of(pool)
    assert os.getsid(worker.pid) == worker.pid
    worker.send_signal(signal.SIGINT)
    assert isinstance((await pool.run(order()))[-1], Done)


async def test_a_cpu_worker_gives_memory_back_and_sees_no_gpu(pool: Watched) -> None:
    environment = worker_of(pool).environ()
    assert environment["MALLOC_MMAP_THRESHOLD_"] == "65536"
    assert environment["MALLOC_TRIM_THRESHOLD_"] == "65536"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""


async def test_a_gpu_worker_sees_its_gpu_and_calls_it_cuda() -> None:
    options = WorkerOptions(weights="")
    async with running(LocalPool("workers:ScriptedWorker", options, ["cuda:3"])) as watched:
        await watched.until(SlotUp)
        assert worker_of(watched).environ()["CUDA_VISIBLE_DEVICES"] == "3"
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


async def test_a_worker_that_cannot_even_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    async with running(local_pool()) as watched:
        assert "could not be started" in (await watched.until(SlotDown)).reason
        (tmp_path / "missing").mkdir()
        await watched.until(SlotUp)


def test_the_wait_before_another_start_doubles_up_to_a_minute() -> None:
    waits = [backoff_s(deaths, 1.0) for deaths in range(1, 9)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff_s(1_000_000, 1.0) == 60


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
    async with running(local_pool()) as watched:
        await watched.until(SlotUp)
        events = watched.pool.run(SLOT, order(prompt, steps=1))
        if prompt != "sleep 3600":
            await step(events)
        worker = worker_of(watched)
    assert not worker.is_running()
    with pytest.raises(WorkerDied, match="The server is stopping"):
        async for _ in events:
            pass
    assert [change async for change in watched.changes][-1] == SlotDown(
        SLOT, "The server is stopping."
    )


async def test_a_pool_that_was_never_started_can_be_closed() -> None:
    await local_pool().close()


async def test_the_files_of_a_worker_that_dies_go_with_it(
    pool: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    await pool.fails(order("killed"))
    await pool.until(SlotUp)
    (scratch,) = tmp_path.iterdir()
    (scratch / "video.mp4").write_bytes(b"unfinished")
    await pool.fails(order("killed"))
    await pool.until(SlotDown)
    assert not scratch.exists()


@pytest.mark.parametrize("prompt", ["hang", "stopped"])
def test_no_worker_outlives_a_server_that_is_killed(prompt: str) -> None:
    server = """
        import asyncio, sys
        from test_server_pool import SLOT, local_pool, order, running, step, worker_of
        from server.pool import SlotUp

        async def main():
            async with running(local_pool()) as watched:
                await watched.until(SlotUp)
                events = watched.pool.run(SLOT, order(sys.argv[1]))
                await step(events)
                print(worker_of(watched).pid, flush=True)
                await asyncio.sleep(3600)

        asyncio.run(main())
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(server), prompt],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        text=True,
    ) as process:
        assert process.stdout is not None
        worker = psutil.Process(int(process.stdout.readline()))
        process.kill()
    worker.wait(timeout=30)


# Which devices.


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Give the machine so many GPUs, by the nvidia-smi that it finds."""

    def install(count: int) -> None:
        listed = "".join(f"echo 'GPU {i}: NVIDIA H200 (UUID: GPU-{i})'\n" for i in range(count))
        listed += "echo '  MIG 1g.18gb Device 0: (UUID: MIG-0)'\n" if count else "exit 9\n"
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{listed}")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return install


@pytest.mark.parametrize(
    ("text", "num_gpus", "visible", "devices"),
    [
        ("", 0, None, ["cpu"]),
        ("", 2, None, ["cuda:0", "cuda:1"]),
        ("", 2, "1", ["cuda:1"]),
        ("", 2, "", ["cpu"]),
        ("", 2, "-1", ["cpu"]),
        ("", 4, "2,-1,3", ["cuda:2"]),
        ("", 0, "GPU-8f2a, MIG-77", ["cuda:GPU-8f2a", "cuda:MIG-77"]),
        ("cpu", 2, None, ["cpu"]),
        ("cpu,cpu", 0, None, ["cpu", "cpu"]),
        ("all", 2, None, ["cuda:0", "cuda:1"]),
        ("1", 2, None, ["cuda:1"]),
        ("2,0", 3, None, ["cuda:2", "cuda:0"]),
        ("0", 8, "5,6", ["cuda:5"]),
    ],
)
def test_devices_are_those_that_cuda_would_show(
    text: str,
    num_gpus: int,
    visible: str | None,
    devices: list[str],
    gpus: Callable[[int], None],
) -> None:
    gpus(num_gpus)
    assert devices_from(text, visible) == devices


@pytest.mark.parametrize(
    ("text", "num_gpus", "visible", "message"),
    [
        ("all", 0, None, "no NVIDIA GPU was found here. Use --devices cpu"),
        ("0", 0, None, "asks for GPU 0, but no NVIDIA GPU was found"),
        ("0", 2, "", "CUDA_VISIBLE_DEVICES='' shows none"),
        ("2", 2, None, "asks for GPU 2, but the GPUs here are 0 to 1"),
        ("0,0", 2, None, "names a GPU twice"),
        ("0,", 2, None, "'' is no device"),
        ("gpu", 2, None, "'gpu' is no device"),
        ("-1", 2, None, "'-1' is no device"),
        ("\u0661", 2, None, "is no device"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    text: str, num_gpus: int, visible: str | None, message: str, gpus: Callable[[int], None]
) -> None:
    gpus(num_gpus)
    with pytest.raises(DeviceError, match=re.escape(message)):
        devices_from(text, visible)
