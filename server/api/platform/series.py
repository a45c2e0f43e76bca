"""Jobs that ended, cut into buckets of time, a page of buckets at a time."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Generic, TypeVar

from server.api.platform.windows import Timeframe, Window, bucket_of
from server.db.database import Database
from server.jobs.usage import EndedJob, ended_jobs

View = TypeVar("View")


@dataclass(frozen=True, slots=True)
class Bucket(Generic[View]):
    """What ended from `at` on, for the length of a bucket."""

    at: datetime
    results: Sequence[View]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The jobs of one server that ended within a window: of these endpoints and keys, or of all."""

    database: Database
    window: Window
    timeframe: Timeframe
    endpoints: Sequence[str] | None = None
    key_ids: Sequence[str | None] | None = None

    def buckets(
        self,
        view: Callable[[Iterable[EndedJob]], Sequence[View]],
        *,
        limit: int,
        since: float | None,
    ) -> tuple[list[Bucket[View]], float | None]:
        """At most `limit` buckets in which something ended, and when the next one begins; blocks.

        No row is read that is after that. `since` is where the page before said that this begins.
        """
        start = self.window.start.timestamp()
        page: list[Bucket[View]] = []
        rows = self._rows(start if since is None else max(start, since))
        with closing(rows):
            for at, jobs in groupby(rows, self._bucket_of):
                if len(page) == limit:
                    return page, at.timestamp()
                page.append(Bucket(at, view(jobs)))
        return page, None

    def summary(self, view: Callable[[Iterable[EndedJob]], Sequence[View]]) -> Sequence[View]:
        """The same of the whole window; blocks."""
        with closing(self._rows(self.window.start.timestamp())) as rows:
            return view(rows)

    def _rows(self, start: float) -> Generator[EndedJob, None, None]:
        return ended_jobs(
            self.database,
            start,
            self.window.end.timestamp(),
            endpoints=self.endpoints,
            key_ids=self.key_ids,
        )

    def _bucket_of(self, job: EndedJob) -> datetime:
        return bucket_of(
            datetime.fromtimestamp(job.ended_at, self.window.start.tzinfo), self.timeframe
        )
