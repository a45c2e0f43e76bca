"""What a run may write: enough for a caller that waits, and never without bound."""

import httpx
import pytest
from job_fixtures import Place
from queue_calls import result_of, status_of, submit

from pipeline.progress import Note, Restarted, Stage, StageStarted, StepDone
from server.dispatch.log import MAX_LINE_LENGTH, MAX_LINES, JobLog
from server.models import JobProgress


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
    log = JobLog(place.store, place.claim())

    def told(event: StageStarted | StepDone | Note | Restarted) -> JobProgress | None:
        log.tell(event)
        log.write_rest()
        return place.store.standing("a").progress

    assert told(StageStarted(Stage.IMAGE)) == JobProgress(Stage.IMAGE)
    assert told(StepDone(2, 4, 1.0, 2.0)) == JobProgress(Stage.DENOISE, 2, 4)
    assert told(StageStarted(Stage.DECODE)) == JobProgress(Stage.DECODE, 2, 4)
    assert told(Note("A note.")) == JobProgress(Stage.DECODE, 2, 4)
    assert told(StageStarted(Stage.DENOISE)) == JobProgress(Stage.DENOISE, 2, 4)
    assert told(StepDone(3, 4, 1.0, 1.0)) == JobProgress(Stage.DENOISE, 3, 4)
    assert told(Restarted("Again.")) == JobProgress(Stage.TEXT)
