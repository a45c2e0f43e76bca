"""The previews of the videos that are being made: in memory, the latest of each, and no longer."""

import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import cached_property

from pipeline.progress import Restarted
from server.files.content_types import is_shown
from server.tasks import Signal
from server.workers.messages import Preview, RunEvent

CONTENT_TYPE = "image/webp"


@dataclass(frozen=True)
class ShownPreview:
    """One preview, an animated WebP file of a worker."""

    data: bytes

    @cached_property
    def etag(self) -> str:
        """What tells it from others, as HTTP has it."""
        return f'"{hashlib.sha256(self.data).hexdigest()}"'


class Previews:
    """The latest preview of each job that runs. It is used from the event loop."""

    def __init__(self) -> None:
        self._latest: dict[str, ShownPreview] = {}
        self._changed = Signal()

    def hear(self, job_id: str, event: RunEvent) -> None:
        """Take note of an event of the job's run. What is no picture of that type is not shown."""
        match event:
            case Preview(data) if is_shown(CONTENT_TYPE, data):
                self._latest[job_id] = ShownPreview(data)
                self._changed.notify()
            case Restarted():
                self.forget(job_id)

    def forget(self, job_id: str) -> None:
        """The run has ended, or its video is made again."""
        self._latest.pop(job_id, None)

    def get(self, job_id: str) -> ShownPreview | None:
        """The latest preview of a job; None if it has none, or does not run."""
        return self._latest.get(job_id)

    async def news(self, job_id: str) -> AsyncGenerator[ShownPreview, None]:
        """The preview of the job, and each later one; who is slow to ask gets the latest."""
        last: ShownPreview | None = None
        while True:
            seen = self._changed.count
            latest = self.get(job_id)
            if latest is not None and latest is not last:
                last = latest
                yield latest
            else:
                await self._changed.wait(seen)
