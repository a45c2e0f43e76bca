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
from functools import partial

from server.errors import UnknownJob
from server.inputs.submit import Submission, Submissions
from server.models import Job, JobStatus
from server.tasks import LOOK_AGAIN_S, log_errors, retry_until_written, trouble_of

CLAIMED_WITHIN_S = 2 * LOOK_AGAIN_S
"""By then another server that has a free slot has claimed a job, even if no hint came to it."""


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

    `has_idle_slot` says whether a job that can be claimed needs nobody else's slot. It knows the
    slots of this server: where the tables are shared, others may have a free one.
    """

    def __init__(
        self,
        submissions: Submissions,
        *,
        grace_s: float,
        has_idle_slot: Callable[[], bool],
        is_shared: bool,
    ) -> None:
        self._submissions = submissions
        self._grace_s = grace_s
        self._has_idle_slot = has_idle_slot
        self._is_shared = is_shared
        self._left: dict[_Identity, dict[str, _Left]] = {}
        self._ends: set[asyncio.Task[None]] = set()

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
        end = asyncio.create_task(self._end_later(identity, job))
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)
        self._left.setdefault(identity, {})[job.id] = _Left(job, end)

    def adopt_all(self, jobs: Iterable[Job]) -> None:
        """Take over the jobs of a server that is gone: their callers' connections ended with it."""
        for job in jobs:
            self.disconnect(job)

    async def close(self) -> None:
        """Leave the jobs to the next start of the server."""
        ends = list(self._ends)
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
                # If that fails unforeseen, the job must not go on for nobody.
                await log_errors(
                    f"waiting for the caller of job {job.id}",
                    self._until_its_slot_is_wanted(job),
                )
        self._remove(identity, job.id)
        await log_errors(f"cancelling job {job.id}", self._cancel(job.id))

    async def _cancel(self, job_id: str) -> None:
        store, signals = self._submissions.store, self._submissions.signals
        with contextlib.suppress(UnknownJob):  # it was removed meanwhile
            await retry_until_written(
                f"cancelling job {job_id}", partial(store.request_cancel, job_id)
            )
        signals.cancelled.notify()
        signals.finished.notify()

    async def _until_its_slot_is_wanted(self, job: Job) -> None:
        claimable = self._submissions.signals.claimable
        with contextlib.suppress(UnknownJob):
            while True:
                seen = claimable.count
                waiting = await self._waiting_for(job)
                if waiting and self._is_shared:
                    await asyncio.sleep(CLAIMED_WITHIN_S)
                    waiting &= await self._waiting_for(job)
                if waiting:
                    return
                await claimable.wait(seen)

    async def _waiting_for(self, job: Job) -> set[str]:
        """The jobs that could have the slot of this one."""
        if self._has_idle_slot():
            return set()
        abandoned = [each for jobs in self._left.values() for each in jobs]
        try:
            return await asyncio.to_thread(self._read_waiting_for, job, abandoned)
        except UnknownJob:
            raise
        except Exception as error:
            if trouble_of(error) is None:
                raise
            # The tables cannot be read now: they are looked at again.
            return set()

    def _read_waiting_for(self, job: Job, abandoned: Collection[str]) -> set[str]:
        store = self._submissions.store
        if store.job(job.id).status is not JobStatus.IN_PROGRESS:
            return set()
        return store.claimable(besides=abandoned, by=job)
