"""Statuses are read once for many who ask, and never from before a write that was committed."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from server.api.status_cache import MAX_KEPT, StatusCache
from server.errors import UnknownJob
from server.models import Job, JobSnapshot, JobStatus, LogLine

PLAIN: dict[str, Any] = dict.fromkeys(field.name for field in fields(Job))
JOB = Job(**(PLAIN | {"id": "a", "status": JobStatus.IN_QUEUE, "attempt": 0}))


class Tables:
    """What would be read of jobs, and how often it was."""

    def __init__(self) -> None:
        self.standing = JobSnapshot(job=JOB, position=3, lines=[])
        self.num_reads = 0
        self.before_answering: Callable[[], None] = lambda: None

    def read(self, job_id: str) -> JobSnapshot:
        self.num_reads += 1
        if job_id == "unknown":
            raise UnknownJob
        found = self.standing
        self.before_answering()
        return found

    def write(
        self, statuses: StatusCache, standing: JobSnapshot, *, log_of: str | None = None
    ) -> None:
        """Change the tables as a thread of the store does."""

        def commit() -> None:
            self.standing = standing
            statuses.written(log_of)

        thread = threading.Thread(target=commit)
        thread.start()
        thread.join()


def moved(tables: Tables, position: int) -> JobSnapshot:
    return replace(tables.standing, position=position)


async def test_many_who_ask_at_once_cost_one_read() -> None:
    tables = Tables()
    statuses = StatusCache(tables.read)

    for _ in range(2):
        found = await asyncio.gather(*(statuses.get("a") for _ in range(50)))

    assert {each.standing.position for each in found} == {3}
    assert tables.num_reads == 1


async def test_what_was_written_is_seen_at_once() -> None:
    tables = Tables()
    statuses = StatusCache(tables.read)
    await statuses.get("a")

    tables.write(statuses, moved(tables, 2))
    assert (await statuses.get("a")).standing.position == 2

    line = LogLine(0.0, "INFO", "Denoising")
    tables.write(statuses, replace(tables.standing, lines=[line]), log_of="a")
    assert (await statuses.get("a")).standing.lines == [line]


async def test_what_another_server_ended_is_seen_by_who_must_know() -> None:
    tables = Tables()
    statuses = StatusCache(tables.read)
    await statuses.get("a")

    # Its word of it has not come yet.
    tables.standing = ended = replace(
        tables.standing, job=replace(JOB, status=JobStatus.COMPLETED), position=0
    )
    assert not (await statuses.get("a")).standing.job.done
    assert (await statuses.get_latest("a")).standing == ended
    assert (await statuses.get("a")).standing == ended
    num_reads = tables.num_reads
    await statuses.get_latest("a")
    assert tables.num_reads == num_reads


async def test_the_log_of_another_job_changes_nothing() -> None:
    tables = Tables()
    statuses = StatusCache(tables.read)
    await statuses.get("a")

    tables.write(statuses, tables.standing, log_of="b")
    await statuses.get("a")

    assert tables.num_reads == 1


async def test_a_read_from_before_a_write_is_not_cached() -> None:
    tables = Tables()
    statuses = StatusCache(tables.read)
    has_read, may_answer = threading.Event(), threading.Event()

    def wait() -> None:
        has_read.set()
        may_answer.wait(30)

    tables.before_answering = wait
    early = asyncio.create_task(statuses.get("a"))
    await asyncio.to_thread(has_read.wait, 30)
    tables.before_answering = lambda: None
    tables.write(statuses, moved(tables, 2))

    assert (await statuses.get("a")).standing.position == 2
    may_answer.set()
    assert (await early).standing.position == 3
    assert (await statuses.get("a")).standing.position == 2


async def test_who_goes_away_does_not_take_the_answer_along() -> None:
    tables = Tables()
    statuses = StatusCache(tables.read)
    may_answer = threading.Event()

    def wait() -> None:
        may_answer.wait(30)

    tables.before_answering = wait
    first, second = [asyncio.create_task(statuses.get("a")) for _ in range(2)]
    await asyncio.sleep(0)

    first.cancel()
    may_answer.set()

    assert (await second).standing.position == 3
    assert tables.num_reads == 1


async def test_an_unknown_job_is_unknown_to_all_who_ask() -> None:
    tables = Tables()
    statuses = StatusCache(tables.read)

    answers = await asyncio.gather(
        *(statuses.get("unknown") for _ in range(3)), return_exceptions=True
    )

    assert [type(answer) for answer in answers] == [UnknownJob] * 3
    with pytest.raises(UnknownJob):
        await statuses.get("unknown")


async def test_only_so_many_jobs_are_kept() -> None:
    tables = Tables()
    statuses = StatusCache(tables.read)
    for number in range(MAX_KEPT + 10):
        await statuses.get(str(number))

    assert len(statuses._kept) == MAX_KEPT
    assert str(MAX_KEPT + 9) in statuses._kept


async def test_a_watcher_sees_every_change_up_to_the_end() -> None:
    tables = Tables()
    statuses = StatusCache(tables.read)
    watched = statuses.watch("a")

    seen = [(await anext(watched)).position]
    for position in (2, 1, 0):
        tables.write(statuses, moved(tables, position))
        seen.append((await anext(watched)).position)
    done = replace(JOB, status=JobStatus.COMPLETED)
    tables.write(statuses, JobSnapshot(job=done, position=0, lines=[]))

    assert [standing.job.status async for standing in watched] == [JobStatus.COMPLETED]
    assert seen == [3, 2, 1, 0]


async def test_news_have_each_line_once() -> None:
    tables = Tables()
    statuses = StatusCache(tables.read)
    lines = [LogLine(float(number), "INFO", str(number)) for number in range(4)]
    news = statuses.news("a", with_logs=True)

    told = [(await anext(news)).lines]
    tables.write(statuses, replace(tables.standing, lines=lines[:1]))
    told.append((await anext(news)).lines)
    done = replace(JOB, status=JobStatus.COMPLETED)
    tables.write(statuses, JobSnapshot(job=done, position=0, lines=lines))
    told += [each.lines async for each in news]

    assert told == [[], lines[:1], lines[1:]]
