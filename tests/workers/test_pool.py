"""The pool's contract: what every worker looks like from the outside, and what a good one does."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest
from pools import Watched, in_process_pool, local_pool, order, running, step, worker_process
from ray_clusters import ray_pool
from stand_ins import stand_in
from workers import CONTENT_TYPES, DIGEST, file_of

from pipeline.progress import Stage, StageStarted, StepDone
from pipeline.spec import Container
from server.workers.messages import (
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
from server.workers.pool import (
    Pool,
    SlotDown,
    SlotIdle,
    SlotLoading,
    SlotState,
    SlotUnavailable,
    SlotUp,
    WorkerTaken,
)
from server.workers.streams import MAX_WAITING_EVENTS

MakePool = Callable[..., Pool]

POOLS = [local_pool, in_process_pool, pytest.param(ray_pool, marks=pytest.mark.cluster)]

each_pool = pytest.mark.parametrize("make", POOLS)


@pytest.fixture(params=POOLS)
async def pool(request: pytest.FixtureRequest) -> AsyncIterator[Watched]:
    async with running(request.param()) as watched:
        await watched.until(SlotUp)
        yield watched


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
    assert artefacts(again) == artefacts(events), "what was cancelled touches the next run"


async def cancelled_after_a_step(watched: Watched, work: WorkOrder) -> AsyncIterator[RunEvent]:
    async with watched.pool.run(watched.slot, work) as events:
        async for event in events:
            yield event
            if isinstance(event, StepDone) and event.step == 1:
                await watched.pool.cancel(watched.slot, work.job_id, work.attempt)


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
    (made, _), (thumbnail, picture) = files = artefacts(events)
    assert isinstance(events[-2], Artifact)
    for described, data in files:
        assert described.size == len(data) > 0
        assert described.sha256 == hashlib.sha256(data).hexdigest()
    assert (made.kind, made.name, made.content_type, made.frames) == (
        *("video", "video.mp4", "video/mp4"),
        9,
    )
    assert (thumbnail.kind, thumbnail.content_type) == ("thumbnail", "image/webp")
    assert (picture[:4], picture[8:12]) == (b"RIFF", b"WEBP")


def artefacts(events: list[RunEvent]) -> list[tuple[Artifact, bytes]]:
    """The files of a run, in the order in which they came."""
    files, data = [], b""
    for event in events:
        if isinstance(event, Chunk):
            data += event.data
        elif isinstance(event, Artifact):
            files.append((event, data))
            data = b""
    return files


def video(events: list[RunEvent]) -> bytes:
    return artefacts(events)[0][1]


async def test_the_scripted_worker_keeps_the_contract(pool: Watched) -> None:
    await keeps_the_contract(pool, order("sleep 0.05", steps=50))


async def test_the_real_worker_keeps_the_contract() -> None:
    async with running(local_pool("server.workers.gpu:GpuWorker", stand_in())) as watched:
        assert len((await watched.until(SlotUp)).checkpoint_digest) == 64
        await keeps_the_contract(watched, order(steps=50))


# What a good worker does.


@each_pool
async def test_a_slot_tells_of_its_loading_and_then_that_it_is_up(
    tmp_path: Path, make: MakePool
) -> None:
    (tmp_path / "loading").touch()
    async with running(make("workers:SlowLoad", tmp_path)) as watched:
        assert watched.pool.slots()[0].state is SlotState.LOADING
        while (await watched.until(SlotLoading)).loading.text != "Waiting for the file to go":
            pass
        (view,) = watched.pool.slots()
        assert view.loading is not None
        assert view.loading.fraction == 0.25
        with pytest.raises(SlotUnavailable, match="loading"):
            await watched.run(order())
        (tmp_path / "loading").unlink()
        assert await watched.until(SlotUp) == SlotUp(watched.slot, DIGEST)
        (view,) = watched.pool.slots()
        assert (view.state, view.checkpoint_digest) == (SlotState.IDLE, DIGEST)
        assert (view.device, view.device_name) == ("cpu", "scripted cpu")


async def test_a_slot_is_busy_until_its_worker_is_idle(pool: Watched) -> None:
    async with pool.pool.run(pool.slot, order()) as events:
        assert pool.pool.slots()[0].state is SlotState.BUSY
        with pytest.raises(SlotUnavailable, match="busy"):
            await pool.run(order())
        assert isinstance([event async for event in events][-1], Done)
    await pool.until(SlotIdle)
    assert pool.pool.slots()[0].state is SlotState.IDLE


async def test_a_file_of_several_chunks_arrives_whole(pool: Watched) -> None:
    work = order(f"bytes {2 * MAX_CHUNK_BYTES + 1}")
    events = await pool.run(work)
    sizes = [len(event.data) for event in events if isinstance(event, Chunk)]
    assert sizes[:3] == [MAX_CHUNK_BYTES, MAX_CHUNK_BYTES, 1]
    assert video(events) == file_of(work, 2 * MAX_CHUNK_BYTES + 1)


async def test_the_file_depends_on_the_seed(pool: Watched) -> None:
    first, second = [video(await pool.run(order(seed=seed))) for seed in (1, 2)]
    assert first != second


@each_pool
async def test_two_slots_run_side_by_side(make: MakePool) -> None:
    async with running(make(num_slots=2)) as watched:
        names = [view.name for view in watched.pool.slots()]
        assert len(set(names)) == 2
        assert {(await watched.until(SlotUp)).slot for _ in names} == set(names)
        first, second = [watched.pool.run(name, order()) for name in names]
        async with first as one, second as other:
            assert [view.state for view in watched.pool.slots()] == [SlotState.BUSY] * 2
            for events in (one, other):
                assert isinstance([event async for event in events][-1], Done)


async def test_an_input_error_names_the_field_and_the_limit(pool: Watched) -> None:
    events = await pool.run(order("refuse"))
    assert events[-1] == Failed(
        code="image_too_large",
        message="The picture is too large.",
        field="image_url",
        context={"max_width": 64},
    )


async def test_too_little_memory_ends_a_run_and_not_its_worker(pool: Watched) -> None:
    failed = (await pool.run(order("memory")))[-1]
    assert isinstance(failed, Failed)
    assert failed.code == "out_of_memory"
    assert isinstance((await pool.run(order()))[-1], Done)


@each_pool
async def test_a_worker_that_cannot_load_says_why(make: MakePool) -> None:
    async with running(make("workers:LoadFails")) as watched:
        down = await watched.until(SlotDown)
    assert "ValueError: The transformer lacks the tensor 'proj_out.weight'." in down.reason


@pytest.mark.parametrize("container", Container)
def test_every_container_has_a_suffix_that_the_test_workers_know(container: Container) -> None:
    assert container.suffix in CONTENT_TYPES


# Cancelling.


async def test_a_late_cancel_does_not_hit_the_next_run(pool: Watched) -> None:
    await pool.run(order(job_id="first"))
    second = order("sleep 0.01", steps=5, job_id="second")
    async with pool.pool.run(pool.slot, second) as events:
        await pool.pool.cancel(pool.slot, "first", 1)
        await pool.pool.cancel(pool.slot, "second", 2)
        assert isinstance([event async for event in events][-1], Done)


async def test_leaving_a_run_early_cancels_it(pool: Watched) -> None:
    async with pool.pool.run(pool.slot, order("sleep 3600")) as events:
        async for event in events:
            if isinstance(event, StageStarted) and event.stage is Stage.DENOISE:
                break
    await pool.until(SlotIdle)
    assert isinstance((await pool.run(order()))[-1], Done)


async def test_a_flood_of_chunks_waits_in_the_worker_and_not_in_our_memory() -> None:
    async with running(local_pool()) as pool:
        await pool.until(SlotUp)
        worker, ours = worker_process(), psutil.Process()
        async with pool.pool.run(pool.slot, order("flood")) as events:
            await step(events, 2)
            before, spent = ours.memory_info().rss, [-1.0, 0.0]
            while spent[-1] != spent[-2]:  # until the worker waits for us
                grown = ours.memory_info().rss - before
                assert grown < 4 * MAX_WAITING_EVENTS * MAX_CHUNK_BYTES
                await asyncio.sleep(0.2)
                times = worker.cpu_times()
                spent.append(times.user + times.system)
        await pool.until(SlotIdle)


@each_pool
@pytest.mark.parametrize("prompt", ["sleep 3600", "flood"])
async def test_closing_the_pool_ends_a_run(make: MakePool, prompt: str) -> None:
    async with AsyncExitStack() as stack:
        async with running(make()) as watched:
            slot = (await watched.until(SlotUp)).slot
            events = await stack.enter_async_context(watched.pool.run(slot, order(prompt)))
        with pytest.raises(WorkerTaken, match="The server is stopping"):
            [_ async for _ in events]
    changes = [change async for change in watched.changes]
    assert changes[-1] == SlotDown(slot, "The server is stopping.")
