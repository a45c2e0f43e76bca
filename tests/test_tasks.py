"""Work in threads, and the waits between tries."""

import asyncio
import threading

import pytest

from server.tasks import in_thread


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
