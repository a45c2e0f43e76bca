"""What a run may write: enough for a caller that waits, and never without bound."""

import asyncio
import errno
import threading
from collections.abc import Collection

import httpx
import pytest
from job_fixtures import Place
from queue_calls import result_of, status_of, submit

from pipeline.progress import Note, Restarted, Stage, StageStarted, StepDone
from server.dispatch.log import MAX_LINE_LENGTH, MAX_LINES, JobLog, LogWriter
from server.models import JobProgress, RunUpdate


@pytest.mark.asyncio(loop_scope="module")
async def test_a_run_that_writes_without_end_is_cut_short(client: httpx.AsyncClient) -> None:
    job = await submit(client, f"notes {MAX_LINES + 500}; refuse")
    assert (await result_of(client, job)).status_code == 422

    lines = (await status_of(client, job, logs="1")).json()["logs"]

    told = [line["message"] for line in lines]
    messages = told[told.index("Started on cpu") :]
    assert len(messages) == MAX_LINES + 1
    assert messages[-2].startswith("This run has written as many lines as one may")
    # Why it ended is said nevertheless.
    assert messages[-1] == "The picture is too large."
    assert max(map(len, messages)) == MAX_LINE_LENGTH + 1


def test_the_steps_that_are_done_stay_done_between_the_chunks_of_a_video(place: Place) -> None:
    place.submit("a")
    log = JobLog(place.claim(), place.store.now, lambda: None)

    def told(event: StageStarted | StepDone | Note | Restarted) -> JobProgress | None:
        log.tell(event)
        update = log.take()
        assert update is not None
        place.store.record([update])
        return place.store.standing("a").progress

    assert told(StageStarted(Stage.IMAGE)) == JobProgress(Stage.IMAGE)
    assert told(StepDone(2, 4, 1.0, 2.0)) == JobProgress(Stage.DENOISE, 2, 4)
    assert told(StageStarted(Stage.DECODE)) == JobProgress(Stage.DECODE, 2, 4)
    assert told(Note("A note.")) == JobProgress(Stage.DECODE, 2, 4)
    assert told(StageStarted(Stage.DENOISE)) == JobProgress(Stage.DENOISE, 2, 4)
    assert told(StepDone(3, 4, 1.0, 1.0)) == JobProgress(Stage.DENOISE, 3, 4)
    assert told(Restarted("Again.")) == JobProgress(Stage.TEXT)


async def test_what_several_runs_tell_is_written_in_one_transaction_even_if_the_disk_was_full(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for job_id in ("a", "b"):
        place.submit(job_id)
    writer, tried, is_written = LogWriter(place.store), [], threading.Event()
    logs = {job.id: writer.open(job) for job in (place.claim(), place.claim())}
    record, loop = place.store.record, asyncio.get_running_loop()

    def record_at_the_second_try(updates: Collection[RunUpdate]) -> None:
        tried.append([update.job_id for update in updates])
        if len(tried) == 1:
            loop.call_soon_threadsafe(logs["a"].say, "Two")
            raise OSError(errno.ENOSPC, "No space left on device")
        record(updates)
        is_written.set()

    monkeypatch.setattr(place.store, "record", record_at_the_second_try)
    monkeypatch.setattr("server.dispatch.log.WRITE_EVERY_S", 0)
    for job_id, log in logs.items():
        log.say(f"One of {job_id}")
    writing = asyncio.create_task(writer.run())
    assert await asyncio.to_thread(is_written.wait, 10)
    logs["b"].say("The last")
    rest = await writer.rest_of(logs["b"])
    writing.cancel()

    assert tried == [["a", "b"], ["a", "b"]]
    lines = {id_: [line.message for line in place.store.standing(id_).lines] for id_ in logs}
    assert lines == {"a": ["One of a", "Two"], "b": ["One of b"]}
    assert rest is not None
    assert [line.message for line in rest.lines] == ["The last"]
