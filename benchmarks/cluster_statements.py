"""What each transaction of a job costs: alone, and by the threads with which a server writes."""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr

from benchmarks.simulated_cluster import PICTURE, Meter, new_job, store_of
from server.db.database import Database
from server.jobs.store import JobStore
from server.models import Job, JobProgress, LogLine, RunUpdate, StoredArtifact
from server.tasks import WRITERS

JOBS, WAITING, GROUP = 800, 1000, 80
_LINE = LogLine(1.0, "INFO", "Step 7 of 35")
_PROGRESS = JobProgress("denoise", 7, 35)

Given = TypeVar("Given")
Result = TypeVar("Result")


def statements(where: Path | SecretStr, meter: Meter) -> dict[str, Any]:
    """The rate of each transaction, beside a queue of other jobs."""
    with closing(Database(where)) as database:
        store = store_of(database)
        first = new_job()
        store.submit(first, queue_limit=1_000_000, artifacts=[PICTURE])
        found: dict[str, Any] = {"waiting_jobs": WAITING, "threads": WRITERS}

        def time_of(
            what: str, work: Callable[[Given], Result], of: Sequence[Given]
        ) -> list[Result]:
            alone, rest = of[: len(of) // 4], of[len(of) // 4 :]
            results, times = [], []
            for each in alone:
                begun = time.perf_counter()
                results.append(work(each))
                times.append(time.perf_counter() - begun)
            with meter.measuring() as used, ThreadPoolExecutor(WRITERS) as threads:
                results += threads.map(work, rest)
            found[what] = {
                "alone_ms": round(1000 * statistics.median(times), 2),
                "per_second": round(len(rest) / used.seconds, 1),
                **{name: value for name, value in used.per_second().items() if "cores" in name},
            }
            return results

        new = [new_job() for _ in range(JOBS + WAITING)]
        time_of("submit", lambda job: store.submit(job, queue_limit=1_000_000), new)
        slots = [f"slot-{number}" for number in range(JOBS)]
        claimed = [job for job in time_of("claim", store.claim, slots) if job is not None]
        groups = [claimed[start : start + GROUP] for start in range(0, len(claimed), GROUP)] * 4
        for what, runs in (("1 run", [[job] for job in claimed]), (f"{GROUP} runs", groups)):
            time_of(f"record {what}", lambda group: store.record([*map(_update, group)]), runs)
            time_of(f"runs_to_stop of {what}", lambda group: store.runs_to_stop(_held(group)), runs)
        time_of(f"renew {GROUP} runs", lambda group: store.renew(_held(group)), groups)
        time_of("standing", lambda job: store.standing(job.id), claimed)
        time_of("finish", lambda job: _finish(store, job), claimed)
        return found


def _update(job: Job) -> RunUpdate:
    return RunUpdate(job.id, job.attempt, [_LINE], _PROGRESS)


def _held(group: Sequence[Job]) -> dict[str, int]:
    return {job.id: job.attempt for job in group}


def _finish(store: JobStore, job: Job) -> bool:
    video = StoredArtifact(
        id=f"video-{job.id}",
        kind="video",
        name="video.mp4",
        content_type="video/mp4",
        size=4_500_000,
        sha256="0" * 64,
    )
    result = {"video": {"artifact": video.id}, "seed": 1}
    return store.finish(job.id, job.attempt, result=result, artifacts=[video])
