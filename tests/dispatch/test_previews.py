"""Previews in memory: the latest of each job, as long as it runs."""

from pipeline.progress import Restarted, StepDone
from server.dispatch.previews import Previews, ShownPreview
from server.workers.messages import Preview

FIRST, SECOND = b"RIFF\0\0\0\0WEBP1", b"RIFF\0\0\0\0WEBP2"


def test_the_latest_preview_of_a_job_is_kept_and_no_other() -> None:
    previews = Previews()
    for job, data in (("a", FIRST), ("b", FIRST), ("a", SECOND)):
        previews.hear(job, Preview(data))
    previews.hear("a", StepDone(1, 2, 0.0, 0.0))

    assert [previews.get(job) for job in ("a", "b", "c")] == [
        ShownPreview(SECOND),
        ShownPreview(FIRST),
        None,
    ]
    assert ShownPreview(FIRST).etag != ShownPreview(SECOND).etag


def test_none_is_kept_of_a_run_that_has_ended_or_begins_again() -> None:
    previews = Previews()
    for job in ("ended", "again"):
        previews.hear(job, Preview(FIRST))

    previews.forget("ended")
    previews.hear("again", Restarted("There was too little memory."))

    assert previews.get("ended") is previews.get("again") is None


def test_what_is_no_picture_is_not_shown() -> None:
    previews = Previews()
    previews.hear("a", Preview(b"<script>alert(1)</script>"))
    assert previews.get("a") is None


async def test_a_reader_is_given_the_latest_and_waits_for_the_next() -> None:
    previews = Previews()
    reading = previews.news("a")
    previews.hear("a", Preview(FIRST))
    assert (await anext(reading)).data == FIRST
    for data in (FIRST, SECOND):
        previews.hear("a", Preview(data))
    assert (await anext(reading)).data == SECOND
    await reading.aclose()
