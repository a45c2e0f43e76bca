"""What a run may write: enough for a caller that waits, and never without bound."""

import httpx
import pytest
from queue_calls import result_of, status_of, submit

from server.dispatch.log import MAX_LINE_LENGTH, MAX_LINES

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
