"""Requests whose callers wait on a connection: what becomes of them when the connection breaks.

A caller who goes away may be back: clients send a run again when a connection breaks, and Node's
fetch breaks one that is silent for five minutes. So the job goes on for a while, and the same
request of the same caller is given the job that has no caller, in place of another one. A job that
has a slot while others wait for one ends at once.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from server.inputs.submit import Submission, Submissions
from server.models import Job, JobStatus
from server.tasks import log_errors


@dataclass(frozen=True, slots=True)
class _Identity:
    """What two requests have in common if one is the other, sent again."""

    key_id: str | None
    base_url: str
    endpoint: str
    body_sha256: str | None


@dataclass(frozen=True, slots=True)
class _Left:
    """A job without a caller, and the task that ends it."""

    job: Job
    end: asyncio.Task[None]


class DisconnectedRuns:
    """The runs of one server. A caller may be away for `grace_s` seconds.

    `has_idle_slot` says whether a job that can be claimed needs nobody else's slot.
    """

    def __init__(
        self, submissions: Submissions, *, grace_s: float, has_idle_slot: Callable[[], bool]
    ) -> None:
        self._submissions = submissions
        self._grace_s = grace_s
        self._has_idle_slot = has_idle_slot
        self._left: dict[_Identity, dict[str, _Left]] = {}

    async def begin(self, submission: Submission) -> Job:
        """The job of a request: the one that it had before it was cut off, or else a new one."""
        identity = _Identity(
            submission.caller.key_id,
            submission.base_url,
            submission.endpoint,
            # Of megabytes, perhaps; it is computed once.
            await asyncio.to_thread(lambda: submission.body_sha256),
        )
        # The headers of a run are those of its first try, but for the idempotency key, which is
        # the queue's: with that, the caller may ask for the job again.
        options = replace(submission.options, idempotency_key=None)
        run = replace(submission, options=options, is_run=True)
        return self._take(identity) or await self._submissions.accept(run)

    def disconnect(self, job: Job) -> None:
        """The job's caller has gone away."""
        identity = _Identity(job.key_id, job.base_url, job.endpoint, job.body_sha256)
        left = _Left(job, asyncio.create_task(self._end_later(identity, job)))
        self._left.setdefault(identity, {})[job.id] = left

    def adopt_all(self, jobs: Iterable[Job]) -> None:
        """Take over the jobs of a server that is gone: their callers' connections ended with it."""
        for job in jobs:
            self.disconnect(job)

    async def close(self) -> None:
        """Leave the jobs to the next start of the server."""
        ends = [left.end for jobs in self._left.values() for left in jobs.values()]
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)

    def _take(self, identity: _Identity) -> Job | None:
        """The job of this identity that was left first; it has a caller again."""
        jobs = self._left.get(identity)
        if jobs is None:
            return None
        left = self._remove(identity, next(iter(jobs)))
        left.end.cancel()
        return left.job

    def _remove(self, identity: _Identity, job_id: str) -> _Left:
        jobs = self._left[identity]
        left = jobs.pop(job_id)
        if not jobs:
            del self._left[identity]
        return left

    async def _end_later(self, identity: _Identity, job: Job) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                await self._until_its_slot_is_wanted(job.id)
        self._remove(identity, job.id)
        await log_errors(f"cancelling job {job.id}", self._submissions.cancel(job.id))

    async def _until_its_slot_is_wanted(self, job_id: str) -> None:
        claimable = self._submissions.signals.claimable
        while True:
            seen = claimable.count
            if not self._has_idle_slot():
                abandoned = [each for jobs in self._left.values() for each in jobs]
                if await asyncio.to_thread(self._is_in_the_way, job_id, abandoned):
                    return
            await claimable.wait(seen)

    def _is_in_the_way(self, job_id: str, abandoned: Collection[str]) -> bool:
        store = self._submissions.store
        is_running = store.job(job_id).status is JobStatus.IN_PROGRESS
        return is_running and store.can_be_claimed(besides=abandoned)
