"""Tables that hold many finished jobs, and what a server does beside them all the time."""

import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import event, insert
from sqlalchemy.engine import Engine

from pipeline.spec import VideoSpec
from server.config.settings import DAY_S
from server.db import tables
from server.db.database import Database
from server.db.rows import row_of_job
from server.files.local import LocalFiles
from server.files.upload_store import UploadStore
from server.inputs.image_store import ImageStore
from server.jobs.estimates import Estimates
from server.jobs.history import SortBy, Wanted, requests
from server.jobs.limits import KeyLimits
from server.jobs.pace import Pace
from server.jobs.records import page, record
from server.jobs.reports import count_waiting, ended_between, queue_size, webhooks_waiting
from server.jobs.retention import Retention
from server.jobs.store import JobStore
from server.jobs.usage import ended_jobs
from server.models import CANCELLED, JobStatus, NewJob
from server.webhooks.store import WebhookStore

KEY = "alice"
ENDPOINT = "fal-ai/cosmos-predict-2.5/image-to-video"
HALF_AN_HOUR = 1800.0
WAITING = 20
_ROWS_AT_ONCE = 5000
_PROMPT = "A rocket lifts off from its launch pad in a cloud of fire and smoke. " * 4


class FullTables:
    """The stores of a server, on tables with so many finished jobs of one key."""

    def __init__(self, folder: Path, finished: int) -> None:
        self.now = time.time()
        self.database = Database(folder / "jobs.sqlite3")
        self.files = files = LocalFiles(folder / "files")
        limits = KeyLimits(queued=10**6, running=10**6, submits_per_minute=10**6)
        self.jobs = JobStore(self.database, owner="a server", key_limits=limits)
        self.webhooks = WebhookStore(self.database, owner="a server")
        self.retention = Retention(self.database, files, gone=lambda: None, keep_s=10_000 * DAY_S)
        self.uploads = UploadStore(self.database, keep_s=10_000 * DAY_S)
        self.images = ImageStore(self.database, files)
        self.estimates = Estimates(self.database, Pace(96, 64, 93), lambda: 1)
        self._numbers = count()
        for start in range(0, finished, _ROWS_AT_ONCE):
            self._add_finished(range(start, min(start + _ROWS_AT_ONCE, finished)), finished)
        for _ in range(WAITING):
            self.submit()

    def submit(self) -> str:
        """Submit a job whose media are here; its id."""
        job_id = f"job {next(self._numbers)}"
        self.jobs.submit(_new(job_id), queue_limit=10**6)
        self.jobs.set_inputs(job_id, {})
        return job_id

    def run(self) -> None:
        """Claim the first job, and put it back."""
        job = self.jobs.claim("cpu")
        assert job is not None
        self.jobs.give_back(job.id, job.attempt)

    def page(self, key: str) -> None:
        """Read the latest jobs of a key."""
        page(self.database, key, after=None, limit=20, newest_first=True, now=self.now)

    def _add_finished(self, numbers: range, of: int) -> None:
        jobs: list[dict[str, Any]] = []
        videos: list[dict[str, Any]] = []
        logs: list[dict[str, Any]] = []
        webhooks: list[dict[str, Any]] = []
        used: list[dict[str, Any]] = []
        for number in numbers:
            # One a minute, the last of them two minutes ago.
            at = self.now - 60.0 * (of - number + 1)
            job_id, video_id = f"finished {number}", f"{number:032x}"
            jobs.append(
                row_of_job(_new(job_id), at)
                | {
                    "status": JobStatus.COMPLETED.value,
                    "started_at": at,
                    "finished_at": at + 30.0,
                    "result": {"video": {"artifact": video_id}, "stage_seconds": {}},
                    "http_status": 200,
                }
            )
            file = {"size": 10**6, "sha256": "0" * 64, "content_type": "video/mp4"}
            about = {"kind": "video", "name": "video.mp4", "key_id": KEY, "created_at": at}
            videos.append({"id": video_id, "job_id": job_id, **about, **file})
            if number % 10 == 0:
                videos.append(
                    {**about, **file, "id": f"upload{number}", "job_id": None, "kind": "upload"}
                )
            line = {"job_id": job_id, "attempt": 1, "at": at, "level": "INFO"}
            logs.extend({**line, "message": f"Step {step} of 35"} for step in range(5))
            sent = {"url": "https://example.com", "receiver": "example.com", "delivered_at": at}
            used.append(
                {"ended_at": at + 30.0, "key_id": KEY, "endpoint": ENDPOINT, "http_status": 200}
                | {"waited_s": 1.0, "run_s": 29.0, "gpu_s": 29.0, "stage_seconds": {"text": 1.0}}
            )
            webhooks.append({"job_id": job_id, "tries": 1, "created_at": at, **sent})
        with self.database.write() as db:
            for table, rows in (
                (tables.jobs, jobs),
                (tables.artifacts, videos),
                (tables.logs, logs),
                (tables.webhooks, webhooks),
                (tables.usage, used),
            ):
                db.execute(insert(table), rows)

    def listed(self, sort_by: SortBy, key_ids: Collection[str] | None = None) -> None:
        """List the requests of the last half hour in pages, to the end."""
        wanted = Wanted(
            start=self.now - HALF_AN_HOUR,
            end=self.now,
            endpoints=[ENDPOINT],
            key_ids=key_ids,
            sort_by=sort_by,
        )
        place = None
        for _ in range(3):
            page = requests(self.database, wanted, self.now, limit=10, after=place)
            assert len(page.jobs) > 5
            place = page.next

    def used(self, key_ids: Collection[str] | None = None) -> None:
        """Read what was used in the last half hour."""
        start = self.now - HALF_AN_HOUR
        found = ended_jobs(self.database, start, self.now, endpoints=[ENDPOINT], key_ids=key_ids)
        assert len(list(found)) > 20


def _new(job_id: str) -> NewJob:
    return NewJob(
        id=job_id,
        endpoint=ENDPOINT,
        base_url="http://localhost:8000",
        key_id=KEY,
        input={"spec": {"prompt": _PROMPT}, "media": {}, "sync_mode": False},
        tier="exact",
        idempotency_key=f"of {job_id}",
        body_sha256="0" * 64,
    )


OPERATIONS: Mapping[str, Callable[[FullTables], Any]] = {
    "submit": FullTables.submit,
    "look whether a submit has room": lambda at: at.jobs.check_room(KEY, queue_limit=10**6),
    "claim and give back": FullTables.run,
    "status of a job that waits": lambda at: at.jobs.standing("job 0"),
    "a page of a key's jobs": lambda at: at.page(KEY),
    "a page of a key without jobs": lambda at: at.page("nobody"),
    "a job with its video": lambda at: record(at.database, "finished 0", at.now),
    "estimate": lambda at: at.estimates.of_request("", VideoSpec(prompt="", seed=0), 0),
    "jobs without their pictures": lambda at: at.jobs.awaiting_inputs(4),
    "end late jobs": lambda at: at.jobs.end_late(),
    "scrape of /metrics: queue": lambda at: queue_size(at.database, at.now),
    "scrape of /metrics: webhooks": lambda at: webhooks_waiting(at.database),
    "scrape of /metrics: ends": lambda at: ended_between(at.database, at.now, at.now + 1),
    "sweep of jobs and videos": lambda at: at.retention.sweep(),
    "sweep of pictures": lambda at: at.images.sweep(),
    "sweep of uploads": lambda at: at.uploads.expire(at.files),
    "claim of a webhook": lambda at: at.webhooks.claim(),
    "requests of a window, the latest first": lambda at: at.listed(SortBy.ENDED_AT),
    "requests of a window, the longest first": lambda at: at.listed(SortBy.DURATION),
    "requests of a key in a window": lambda at: at.listed(SortBy.ENDED_AT, [KEY]),
    "longest requests of a key in a window": lambda at: at.listed(SortBy.DURATION, [KEY]),
    "use in a window": lambda at: at.used(),
    "use of a key in a window": lambda at: at.used([KEY]),
    "size of an app's queue": lambda at: count_waiting(at.database, [ENDPOINT]),
    "flush of a queue": lambda at: at.jobs.end_waiting(CANCELLED, of=["an endpoint"]),
    "start: jobs that ran": lambda at: at.jobs.recover(),
    "start: runs without callers": lambda at: at.jobs.unfinished_runs(),
    "start: webhooks being sent": lambda at: at.webhooks.recover(longest_wait_s=7200),
}
"""What is done all the time, and at a start, in words."""


class Steps:
    """The instructions of its virtual machine that SQLite executed: the same on any computer."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return 0


@contextmanager
def counted_steps() -> Iterator[Steps]:
    """Count the instructions of every connection that is opened in the block."""
    steps = Steps()

    def watch(connection: sqlite3.Connection, _record: Any) -> None:
        connection.set_progress_handler(steps, 1)

    event.listen(Engine, "connect", watch)
    try:
        yield steps
    finally:
        event.remove(Engine, "connect", watch)
