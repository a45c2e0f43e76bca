"""What runs tell the people who wait for their videos: log lines and progress, written in batches.

At most two writes a second, however many runs there are; the lines of the meantime go together.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from pipeline.progress import Note, Progress, Restarted, Stage, StageStarted, StepDone
from server.disk import shortage_of
from server.jobs.store import JobStore
from server.models import Job, JobProgress, LogLine, RunUpdate
from server.tasks import log_errors, to_writer_thread
from server.workers.progress_text import describe

WRITE_EVERY_S = 0.5

MAX_LINES = 1000
"""Lines of one run: several times what the longest one has to tell."""
MAX_LINE_LENGTH = 1000

_ENOUGH = "This run has written as many lines as one may: those that follow are left out."


class JobLog:
    """The log of one run of one job. `has_news` is called when there is something to write."""

    def __init__(self, job: Job, now: Callable[[], float], has_news: Callable[[], None]) -> None:
        self._job = job
        self._now = now
        self._has_news = has_news
        self._lines: list[LogLine] = []
        self._num_lines = 0
        self._last = JobProgress(Stage.TEXT)
        self._progress: JobProgress | None = None
        """What is still to be written of it."""

    def say(self, message: str, level: str = "INFO") -> None:
        """Add a line. A run can write no more than `MAX_LINES`, but for those that are errors."""
        self._num_lines += 1
        if level != "ERROR" and self._num_lines >= MAX_LINES:
            if self._num_lines > MAX_LINES:
                return
            message = _ENOUGH
        if len(message) > MAX_LINE_LENGTH:
            message = f"{message[:MAX_LINE_LENGTH]}…"
        self._lines.append(LogLine(self._now(), level, message))
        self._has_news()

    def tell(self, event: Progress) -> None:
        """Put an event of the run into words."""
        self.say(describe(event))
        match event:
            case StageStarted(stage):
                # Its steps are done still: a long video is decoded between them.
                self._last = replace(self._last, stage=stage)
            case StepDone(step, num_steps):
                self._last = JobProgress(Stage.DENOISE, step, num_steps)
            case Restarted():
                self._last = JobProgress(Stage.TEXT)
            case Note():
                return
        self._progress = self._last

    def take(self) -> RunUpdate | None:
        """What is to be written, which the caller does now; None if that is nothing."""
        if not self._lines and self._progress is None:
            return None
        update = RunUpdate(self._job.id, self._job.attempt, self._lines, self._progress)
        self._lines, self._progress = [], None
        return update

    def put_back(self, update: RunUpdate) -> None:
        """What was taken could not be written: it goes with what follows."""
        self._lines[:0] = update.lines
        self._progress = self._progress or update.progress
        self._has_news()


class LogWriter:
    """Writes the logs of all runs of a dispatcher. It is used from the event loop."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._fresh: dict[str, JobLog] = {}
        """The logs that have something to be written, by the ids of their jobs."""
        self._has_news = asyncio.Event()
        self._writing = asyncio.Lock()

    def open(self, job: Job) -> JobLog:
        """The log of a run."""

        def has_news() -> None:
            self._fresh[job.id] = log
            self._has_news.set()

        log = JobLog(job, self._store.now, has_news)
        return log

    async def run(self) -> None:
        """Write what is new, and again, until cancelled."""
        while True:
            await self._has_news.wait()
            await log_errors("writing the logs of runs", self._write())
            await asyncio.sleep(WRITE_EVERY_S)

    async def rest_of(self, log: JobLog) -> RunUpdate | None:
        """What is still to be written of a log, once what is being written is."""
        async with self._writing:
            return log.take()

    async def _write(self) -> None:
        async with self._writing:
            self._has_news.clear()
            fresh, self._fresh = self._fresh, {}
            updates = {id_: update for id_, log in fresh.items() if (update := log.take())}
            if not updates:
                return
            try:
                await to_writer_thread(self._store.record, list(updates.values()))
            except Exception as error:
                if shortage_of(error) is None:
                    raise
                # A video is not given up for its log: the lines go with those that follow.
                for id_, update in updates.items():
                    fresh[id_].put_back(update)
