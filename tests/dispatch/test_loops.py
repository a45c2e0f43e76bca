"""The server's own loops: none ends silently."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from queue_calls import submit, until
from servers import serving, settings_in
from structlog.testing import capture_logs

from server.errors import Shortage
from server.jobs.store import JobStore
from server.tasks import LATE_S, Loops, in_thread, log_errors, time_limit


@pytest.fixture
async def loops() -> AsyncIterator[Loops]:
    loops = Loops(first_wait_s=0.01)
    yield loops
    await loops.close()


async def _raise() -> None:
    raise RuntimeError("unforeseen")


async def _end() -> None:
    """Return, which no loop does."""


async def _cancel_something_else() -> None:
    other = asyncio.create_task(asyncio.sleep(3600))
    other.cancel()
    await other


@pytest.mark.parametrize("fault", [_raise, _end, _cancel_something_else])
async def test_a_loop_that_ends_is_begun_again(loops: Loops, fault: object) -> None:
    begun = 0
    runs = asyncio.Event()

    async def loop() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            await fault()  # type: ignore[operator]
        else:
            runs.set()
            await asyncio.sleep(3600)

    with capture_logs() as logs:
        loops.start("sweeping", loop)
        await runs.wait()
    assert loops.problem() is None
    assert [line["during"] for line in logs if line["log_level"] == "error"] == ["sweeping"] * 2


async def test_a_loop_that_does_not_run_is_named() -> None:
    loops = Loops(first_wait_s=3600)
    loops.start("sending webhooks", _raise)
    loops.start("sweeping", lambda: asyncio.sleep(3600))
    while (problem := loops.problem()) is None:
        await asyncio.sleep(0)
    assert "sending webhooks" in problem
    assert "sweeping" not in problem
    await loops.close()


async def test_a_task_that_is_cancelled_itself_ends() -> None:
    task = asyncio.create_task(log_errors("waiting", asyncio.sleep(3600)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_run_that_cannot_be_ended_frees_its_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("unforeseen")

    async with serving(settings_in(tmp_path)) as client:
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(JobStore, "finish", fail)
            await submit(client)
            while not any("ending job" in str(line.get("during")) for line in logs):
                await asyncio.sleep(0.01)
        await until(client, await submit(client), "COMPLETED")


@pytest.mark.parametrize(
    ("late_s", "stopped_s", "raised"), [(LATE_S, 0.0, TimeoutError), (0.1, 0.3, Shortage)]
)
async def test_a_limit_that_is_passed_while_the_process_is_stopped_blames_nobody(
    late_s: float, stopped_s: float, raised: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.tasks.LATE_S", late_s)
    with pytest.raises(raised):
        async with time_limit(0.01):
            time.sleep(stopped_s)  # as SIGSTOP does, nothing of this process runs meanwhile
            await asyncio.Event().wait()


async def test_a_cancel_waits_until_the_thread_is_done() -> None:
    begun, may_end, opened = threading.Event(), threading.Event(), []

    def open_slowly() -> None:
        begun.set()
        assert may_end.wait(10)
        opened.append("file")

    task = asyncio.create_task(in_thread(open_slowly))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()

    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert opened == ["file"]


async def test_the_error_of_work_that_was_cancelled_is_one_line() -> None:
    begun, may_end = threading.Event(), threading.Event()
    unheard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))

    def fail_slowly() -> None:
        begun.set()
        assert may_end.wait(10)
        raise ConnectionError("the head does not answer")

    task = asyncio.create_task(in_thread(fail_slowly))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with capture_logs() as logs:
        await asyncio.wait([task])
    assert task.cancelled()
    del task
    gc.collect()

    assert unheard == []
    assert [line["why"] for line in logs] == ["ConnectionError: the head does not answer"]
