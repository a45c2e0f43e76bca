"""What a run tells the person who waits for the video: log lines and progress, written in batches.

At most two writes a second per job; the lines of the meantime go together.
"""

import asyncio
from dataclasses import replace

from pipeline.progress import Note, Progress, Restarted, Stage, StageStarted, StepDone
from server.disk import shortage_of
from server.jobs.store import JobStore
from server.models import Job, JobProgress, LogLine
from server.tasks import to_writer_thread
from server.workers.progress_text import describe

WRITE_EVERY_S = 0.5

MAX_LINES = 1000
"""Lines of one run: several times what the longest one has to tell."""
MAX_LINE_LENGTH = 1000

_ENOUGH = "This run has written as many lines as one may: those that follow are left out."


class JobLog:
    """The log of one run of one job."""

    def __init__(self, store: JobStore, job: Job) -> None:
        self._store = store
        self._job = job
        self._lines: list[LogLine] = []
        self._num_lines = 0
        self._last = JobProgress(Stage.TEXT)
        self._progress: JobProgress | None = None
        """What is still to be written of it."""
        self._news = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    def say(self, message: str, level: str = "INFO") -> None:
        """Add a line. A run can write no more than `MAX_LINES`, but for those that are errors."""
        self._num_lines += 1
        if level != "ERROR" and self._num_lines >= MAX_LINES:
            if self._num_lines > MAX_LINES:
                return
            message = _ENOUGH
        if len(message) > MAX_LINE_LENGTH:
            message = f"{message[:MAX_LINE_LENGTH]}…"
        self._lines.append(LogLine(self._store.now(), level, message))
        self._news.set()

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

    async def keep_writing(self) -> None:
        """Write what is new, and again, until cancelled."""
        while True:
            await self._news.wait()
            await self.flush()
            await asyncio.sleep(WRITE_EVERY_S)

    async def flush(self) -> None:
        """Write what is new now, after what is being written."""
        if self._writing is not None:
            await self._writing
        lines, progress = self._lines, self._progress
        self._lines, self._progress = [], None
        self._news.clear()
        if lines or progress is not None:
            self._writing = asyncio.create_task(self._write(lines, progress))
            # A write that has begun is not cancelled with `keep_writing`: the next flush waits.
            await asyncio.shield(self._writing)

    def write_rest(self) -> None:
        """Write what no flush could write, in this thread, when nothing else writes."""
        if self._lines or self._progress is not None:
            job = self._job
            self._store.record(job.id, job.attempt, self._lines, self._progress)
            self._lines, self._progress = [], None

    async def _write(self, lines: list[LogLine], progress: JobProgress | None) -> None:
        job = self._job
        try:
            await to_writer_thread(self._store.record, job.id, job.attempt, lines, progress)
        except Exception as error:
            if shortage_of(error) is None:
                raise
            # A video is not given up for its log: the lines go with those that follow.
            self._lines[:0] = lines
            self._progress = self._progress or progress
