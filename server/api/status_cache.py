"""Where jobs stand, in memory: many clients ask ten times a second for what seldom changes.

What was read is kept until something is written, and for a second at most, because other processes
write to the tables, too.
"""

import asyncio
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from functools import cached_property

from server.disk import shortage_of
from server.fal.views import as_json, status_view
from server.models import JobSnapshot, JobStatus
from server.tasks import LOOK_AGAIN_S, Signal

MAX_KEPT = 1024
"""Jobs that are kept at once, the latest ones that were asked about."""


@dataclass(frozen=True)
class StatusResponse:
    """Where a job stands, and the answers that say so."""

    standing: JobSnapshot

    @cached_property
    def body(self) -> bytes:
        """The status as JSON."""
        return as_json(status_view(self.standing, with_logs=False))

    @cached_property
    def body_with_logs(self) -> bytes:
        """The status with every line of the log."""
        return as_json(status_view(self.standing, with_logs=True))


@dataclass(frozen=True, slots=True)
class _Kept:
    status: StatusResponse
    until: float


@dataclass(frozen=True, slots=True)
class _Reading:
    """A read of the tables that began after so many writes."""

    writes: int
    task: asyncio.Task[StatusResponse]


class StatusCache:
    """The statuses of one server's jobs, for its event loop; `written` is for any thread."""

    def __init__(self, read: Callable[[str], JobSnapshot]) -> None:
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._changed = Signal()
        self._lock = threading.Lock()
        self._writes = 0
        self._kept: dict[str, _Kept] = {}
        self._reading: dict[str, _Reading] = {}

    def written(self, job_id: str | None) -> None:
        """Something was committed: lines of that job's log, or else anything about any job."""
        with self._lock:
            self._writes += 1
            if job_id is None:
                self._kept.clear()
            else:
                self._kept.pop(job_id, None)
        self._loop.call_soon_threadsafe(self._changed.notify)

    async def get(self, job_id: str) -> StatusResponse:
        """Where a job stands, with all that this process has committed about it."""
        kept = self._kept.get(job_id)
        if kept is not None and kept.until > time.monotonic():
            return kept.status
        reading = self._reading.get(job_id)
        # A read that began before the latest write may not show it.
        if reading is None or reading.writes != self._writes:
            reading = self._begin(job_id)
        return await asyncio.shield(reading.task)

    async def get_latest(self, job_id: str) -> StatusResponse:
        """As `get`, but what is not done is read after this call began.

        For what would be refused of a job that is not done: who asks may have heard of its end from
        another server, whose word of it is still on its way here.
        """
        status = await self.get(job_id)
        if status.standing.job.done:
            return status
        return await asyncio.shield(self._begin(job_id).task)

    async def get_patiently(self, job_id: str) -> StatusResponse:
        """As `get`, but waits while the machine is short of what a read needs.

        For those whose job is accepted: to break off would end it.
        """
        while True:
            seen = self._changed.count
            try:
                return await self.get(job_id)
            except Exception as error:
                if shortage_of(error) is None:
                    raise
            await self._changed.wait(seen)

    async def watch(self, job_id: str) -> AsyncGenerator[JobSnapshot, None]:
        """Where the job stands: now, and at every change until it is done."""
        last: JobSnapshot | None = None
        while last is None or not last.job.done:
            seen = self._changed.count
            standing = (await self.get_patiently(job_id)).standing
            if standing != last:
                yield standing
                last = standing
            else:
                await self._changed.wait(seen)

    async def news(self, job_id: str, *, with_logs: bool) -> AsyncGenerator[JobSnapshot, None]:
        """What a stream tells of the job: each change, with the lines since the one before."""
        told: tuple[JobStatus, int] | None = None
        num_told = 0
        async for standing in self.watch(job_id):
            lines = standing.lines[num_told:] if with_logs else []
            state = standing.job.status, standing.position
            if lines or state != told:
                yield replace(standing, lines=lines)
                told, num_told = state, len(standing.lines)

    def _begin(self, job_id: str) -> _Reading:
        """Read once for all who ask meanwhile."""
        reading = _Reading(self._writes, asyncio.create_task(self._look(job_id, self._writes)))

        def forget(task: asyncio.Task[StatusResponse]) -> None:
            if self._reading.get(job_id) is reading:
                del self._reading[job_id]
            if not task.cancelled():
                task.exception()  # if all who asked have left, nothing else reads it

        reading.task.add_done_callback(forget)
        self._reading[job_id] = reading
        return reading

    async def _look(self, job_id: str, writes: int) -> StatusResponse:
        status = StatusResponse(await asyncio.to_thread(self._read, job_id))
        with self._lock:
            if writes == self._writes:
                self._kept.pop(job_id, None)
                while len(self._kept) >= MAX_KEPT:
                    del self._kept[next(iter(self._kept))]
                # Not all at once: what was read in one moment is not read again in one.
                seconds = LOOK_AGAIN_S * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
                self._kept[job_id] = _Kept(status, time.monotonic() + seconds)
        return status
