"""The estimates of a server: by its pool's slots, for requests that wait."""

from collections.abc import Callable
from dataclasses import replace

from server.api.status_cache import StatusCache
from server.db.database import Database
from server.fal.endpoints import Limits
from server.jobs.estimates import Estimates
from server.jobs.pace import Pace
from server.jobs.store import JobStore
from server.models import JobSnapshot, JobStatus
from server.workers.pool import Pool


def estimates_of(
    database: Database, pool: Pool, limits: Limits, now: Callable[[], float]
) -> Estimates:
    """The estimates of the server that has this database and pool."""
    pace = Pace(limits.width, limits.height, limits.max_frames)

    def num_slots() -> int:
        return sum(slot.can_work for slot in pool.slots())

    return Estimates(database, pace, num_slots, endpoints=limits.endpoints, now=now)


def statuses_of(store: JobStore, estimates: Estimates) -> StatusCache:
    """Where jobs stand, and, of those that wait, what is to be expected of them."""

    def standing_of(job_id: str) -> JobSnapshot:
        standing = store.standing(job_id)
        if standing.job.status is not JobStatus.IN_QUEUE:
            return standing
        return replace(standing, estimate=estimates.of_waiting(standing.job))

    statuses = StatusCache(standing_of)
    # First the estimates, which statuses have.
    store.on_write(estimates.written)
    store.on_write(statuses.written)
    return statuses
