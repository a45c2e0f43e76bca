"""Workers that hang: how long each part of a run may take, and what becomes of the job."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import psutil
import pytest
from job_fixtures import Clock, new_job
from pools import PICTURE, SLOT, local_pool, order, running, worker_process

from pipeline.progress import Note, Restarted, Stage, StageStarted, StepDone
from server.db.database import Database
from server.disk import DiskSpace
from server.dispatch.deadlines import Deadlines, RunDeadline, RunLimits, RunningTime
from server.dispatch.dispatcher import Dispatcher
from server.fal.endpoints import Limits
from server.files.local import LocalFiles
from server.inputs.image_store import IncomingImages
from server.jobs.store import JobStore
from server.tasks import Signals
from server.workers.local_pool import LocalPool
from server.workers.loop import WorkerOptions
from server.workers.messages import Chunk, RunEvent
from server.workers.pool import SlotDown, SlotUp


@pytest.fixture
def deadlines(clock: Clock) -> Deadlines:
    return Deadlines(now=clock)


@pytest.fixture
def deadline(deadlines: Deadlines) -> RunDeadline:
    return deadlines.begin(SLOT, 93)


def step_done(step: int) -> StepDone:
    return StepDone(step, 36, 1.0, 1.0)


def hear(deadline: RunDeadline, clock: Clock, *events: tuple[float, RunEvent]) -> None:
    """Let the seconds before each event pass."""
    for seconds, event in events:
        clock.now += seconds
        deadline.hear(event)


async def is_missed_after(deadline: RunDeadline, clock: Clock, seconds: float) -> str:
    """That the deadline is not missed a moment before, and what is said when it is."""
    clock.now += seconds - 0.25
    missed = asyncio.create_task(deadline.missed())
    await asyncio.sleep(0)
    assert not missed.done()
    clock.now += 0.25
    return await missed


TWO_CHUNKS: list[RunEvent] = [
    step_done(1),
    StageStarted(Stage.DECODE),
    StageStarted(Stage.DENOISE),
    step_done(2),
    StageStarted(Stage.DECODE),
]
"""A long video is denoised and decoded in turn."""


async def test_each_chunk_of_a_long_video_has_its_time_to_be_decoded(
    clock: Clock, deadline: RunDeadline
) -> None:
    hear(deadline, clock, *((100.0, event) for event in TWO_CHUNKS))

    assert "Decoding took longer than 180" in await is_missed_after(deadline, clock, 180)


async def test_stages_without_a_step_between_them_do_not_move_a_deadline(
    clock: Clock, deadline: RunDeadline
) -> None:
    hear(deadline, clock, *((0.0, event) for event in TWO_CHUNKS[:3]))
    hear(deadline, clock, *((100.0, event) for event in TWO_CHUNKS[1:3]))

    assert "Step 2" in await is_missed_after(deadline, clock, 100)


@pytest.mark.parametrize(
    ("events", "limit_s", "phase"),
    [
        ([], 1800, "The first step, with all that comes before it,"),
        ([StageStarted(Stage.TEXT), Note("x")], 1800, "The first step"),
        ([StageStarted(Stage.DENOISE)], 1800, "The first step"),
        ([step_done(1)], 300, "Step 2"),
        ([step_done(1), StageStarted(Stage.DECODE)], 180, "Decoding"),
        ([StageStarted(Stage.DECODE), StageStarted(Stage.ENCODE)], 180, "Encoding"),
        (TWO_CHUNKS[:3], 300, "Step 2"),
    ],
)
async def test_each_part_of_a_run_has_its_limit(
    events: list[RunEvent], limit_s: float, phase: str, clock: Clock, deadline: RunDeadline
) -> None:
    hear(deadline, clock, *((100.0, event) for event in events if isinstance(event, StepDone)))
    hear(deadline, clock, *((0.0, event) for event in events))

    said = await is_missed_after(deadline, clock, limit_s)

    assert said.startswith(phase)
    assert f"longer than {limit_s:,} seconds" in said


async def test_a_patient_server_waits_longer_for_everything(clock: Clock) -> None:
    deadlines = Deadlines(RunLimits(patience=3), now=clock)

    assert "5,400 seconds" in await is_missed_after(deadlines.begin(SLOT, 93), clock, 5400)
    for stage in (Stage.DECODE, Stage.ENCODE):
        deadline = deadlines.begin(SLOT, 93)
        hear(deadline, clock, (0.0, StageStarted(stage)))
        assert "540 seconds" in await is_missed_after(deadline, clock, 540)
    unsure = deadlines.begin(SLOT, 93)
    hear(unsure, clock, (0.0, step_done(1)))
    assert "900 seconds" in await is_missed_after(unsure, clock, 900)
    slow = deadlines.begin(SLOT, 45)
    hear(slow, clock, (0.0, step_done(1)), *((8.0, step_done(step)) for step in range(2, 13)))
    assert "240 seconds" in await is_missed_after(slow, clock, 240)


@pytest.mark.parametrize("stage", [Stage.TEXT, Stage.DECODE, Stage.ENCODE])
async def test_a_worker_that_hangs_in_a_stage_is_replaced(tmp_path: Path, stage: Stage) -> None:
    limits = RunLimits(first_step_s=1.0, decode_s=1.0, encode_s=1.0)
    async with dispatching(tmp_path, limits) as store:
        again = submit(store, tmp_path, f"hang {stage} once")
        while not store.job(again).done:
            await asyncio.sleep(0.02)
        job = store.job(again)

    assert (job.error, job.worker_deaths) == (None, 1)


async def test_later_steps_may_take_ten_times_the_slowest(
    clock: Clock, deadline: RunDeadline
) -> None:
    hear(deadline, clock, (600.0, step_done(1)), (50.0, step_done(2)), (20.0, step_done(3)))

    assert "500 seconds" in await is_missed_after(deadline, clock, 500)


async def test_a_worker_whose_steps_are_known_is_given_less_time(
    clock: Clock, deadlines: Deadlines
) -> None:
    first = deadlines.begin(SLOT, 93)
    hear(first, clock, *((4.0, step_done(step)) for step in range(1, 12)))

    assert "60 seconds" in await is_missed_after(first, clock, 60)

    second = deadlines.begin(SLOT, 93)
    hear(second, clock, (4.0, step_done(1)))
    assert "60 seconds" in await is_missed_after(second, clock, 60)


async def test_what_is_known_is_of_one_worker_and_one_frame_count(
    clock: Clock, deadlines: Deadlines
) -> None:
    known = deadlines.begin(SLOT, 93)
    hear(known, clock, *((4.0, step_done(step)) for step in range(1, 12)))
    deadlines.forget("cpu-2")
    strangers = [deadlines.begin(SLOT, 9), deadlines.begin("cpu-2", 93)]
    deadlines.forget(SLOT)
    strangers.append(deadlines.begin(SLOT, 93))

    for deadline in strangers:
        hear(deadline, clock, (0.0, step_done(1)))
        assert "300 seconds" in await is_missed_after(deadline, clock, 300)
        clock.now = 1000.0


@pytest.mark.parametrize(
    ("first", "again"),
    [
        ([step_done(2)], [step_done(2), step_done(1)]),
        ([StageStarted(Stage.DECODE)], [StageStarted(Stage.DECODE)]),
        ([StageStarted(Stage.ENCODE)], [StageStarted(Stage.ENCODE), StageStarted(Stage.DECODE)]),
        ([StageStarted(Stage.ENCODE)], [Note("x"), Chunk(b"x")]),
    ],
)
async def test_a_worker_wins_no_time_by_repeating_itself(
    first: list[RunEvent], again: list[RunEvent], clock: Clock, deadline: RunDeadline
) -> None:
    hear(deadline, clock, *((0.0, event) for event in first))

    clock.now += 1800
    hear(deadline, clock, *((0.0, event) for event in again))

    assert "was taken to hang" in await deadline.missed()


@pytest.mark.parametrize(
    "first",
    [[step_done(3)], [step_done(3), StageStarted(Stage.DECODE), StageStarted(Stage.ENCODE)]],
)
async def test_a_run_that_begins_again_has_its_time_again_but_only_once(
    first: list[RunEvent], clock: Clock, deadline: RunDeadline
) -> None:
    hear(deadline, clock, *((0.0, event) for event in first), (100.0, Restarted("x")))
    hear(deadline, clock, (1799.0, step_done(1)), (299.0, StageStarted(Stage.DECODE)))

    hear(deadline, clock, (100.0, Restarted("x")), (0.0, step_done(1)))

    assert (await is_missed_after(deadline, clock, 80)).startswith("Decoding")


async def test_a_deadline_that_comes_nearer_is_noticed(clock: Clock) -> None:
    limits = RunLimits(first_step_s=1e6, unsure_step_s=0.01, slowest_times=0.0)
    deadline = Deadlines(limits, now=asyncio.get_running_loop().time).begin(SLOT, 93)
    missed = asyncio.create_task(deadline.missed())
    await asyncio.sleep(0)

    hear(deadline, clock, (0.0, step_done(1)))

    assert (await missed).startswith("Step 2")


async def test_time_in_which_the_server_is_stopped_with_its_workers_does_not_count(
    clock: Clock,
) -> None:
    """As by `docker pause`: nobody hangs, and no worker is taken to be slower than it is."""
    time = RunningTime(clock)
    deadlines = Deadlines(RunLimits(unsure_step_s=60.0, slowest_times=2.0), now=time)
    deadline = deadlines.begin(SLOT, 93)
    hear(deadline, clock, (0.0, step_done(1)), (3600.0, step_done(2)), (3600.0, Note("x")))
    early = asyncio.create_task(deadline.missed())
    await asyncio.sleep(0)
    assert not early.done()

    early.cancel()
    for _ in range(60):
        clock.now += 1.0
        time()
    assert "60 seconds" in await deadline.missed()


@asynccontextmanager
async def dispatching(folder: Path, limits: RunLimits) -> AsyncIterator[JobStore]:
    """Run the jobs of a store, within these limits, on one scripted worker."""
    with closing(Database(folder / "jobs.sqlite3")) as database:
        store = JobStore(database, owner="this server")
        async with running(local_pool()) as watched:
            await watched.until(SlotUp)
            dispatcher = Dispatcher(
                pool=watched.pool,
                store=store,
                files=LocalFiles(folder / "files"),
                limits=Limits(PICTURE.width, PICTURE.height, 9),
                signals=Signals(),
                disk=DiskSpace(folder, 0),
                deadlines=Deadlines(limits),
            )
            tasks = [asyncio.create_task(dispatcher.run())]
            try:
                yield store
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await dispatcher.close()


def submit(store: JobStore, folder: Path, prompt: str) -> str:
    """A job whose picture is here."""
    job = new_job(prompt, input={"spec": order(prompt).spec.to_json(), "media": {"image": {}}})
    store.submit(job, queue_limit=10)
    with IncomingImages(LocalFiles(folder / "files")) as images:
        store.set_inputs(job.id, {"image": images.add_pixels([PICTURE])}, place=images.place)
    return job.id


@pytest.mark.parametrize("fault", ["hang", "stopped"])
async def test_a_worker_that_hangs_is_replaced_and_its_job_is_run_again(
    tmp_path: Path, fault: str
) -> None:
    # Until the second step: whatever comes after it is quick, and has time.
    limits = RunLimits(unsure_step_s=1.0, slowest_times=0.0)
    async with dispatching(tmp_path, limits) as store:
        once, always = [submit(store, tmp_path, f"{fault} 1{word}") for word in (" once", "")]
        while not (store.job(once).done and store.job(always).done):
            await asyncio.sleep(0.02)
        again, lost = store.job(once), store.job(always)

    assert (again.error, again.attempt, again.worker_deaths) == (None, 2, 1)
    assert lost.worker_deaths == 2
    assert lost.error is not None
    assert lost.error.error_type == "runner_server_error"
    assert lost.error.body["detail"].startswith("Step 2 took longer than")


async def test_a_worker_that_does_not_finish_loading_is_ended(tmp_path: Path) -> None:
    (tmp_path / "loading").touch()
    options = WorkerOptions(weights=str(tmp_path))
    pool = LocalPool("workers:SlowLoad", options, ["cpu"], first_backoff_s=0.01, load_limit_s=0.2)
    async with running(pool) as watched:
        for _ in range(2):
            down = await watched.until(SlotDown)
            assert "Loading took longer than" in down.reason


async def test_a_worker_that_has_loaded_in_time_is_left_alone() -> None:
    options = WorkerOptions(weights="")
    pool = LocalPool("workers:ScriptedWorker", options, ["cpu"], load_limit_s=4.0)
    async with running(pool) as watched:
        await watched.until(SlotUp)
        worker = worker_process()
        await asyncio.sleep(4.0)
        assert worker_process() == worker
        assert worker.status() == psutil.STATUS_SLEEPING
