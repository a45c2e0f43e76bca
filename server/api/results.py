"""What a job that is done gives its caller: the output, or its error's own answer.

With `sync_mode` the output holds the video itself. Its base64 is made while the answer is sent, a
piece at a time, so that memory never holds the video.
"""

import asyncio
import contextlib
from base64 import b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import IO

from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from server.errors import OutputExpired
from server.fal.views import as_json, data_uri, output_view
from server.files.links import FileLinks
from server.files.store import FileStore
from server.jobs.retention import Retention
from server.jobs.store import JobStore
from server.models import TOO_LATE, Job, JobError
from server.tasks import log_errors, to_writer_thread

PIECE_BYTES = 3 * 2**18
"""Of the file; three bytes make four characters, so pieces join without padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """An answer's body. The base64 of `video`, if there is one, goes between `head` and `tail`."""

    status: int
    headers: Mapping[str, str]
    head: bytes
    video: IO[bytes] | None = None
    video_size: int = 0
    tail: bytes = b""

    @property
    def size(self) -> int:
        return len(self.head) + (self.video_size + 2) // 3 * 4 + len(self.tail)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body; it can be read once."""
        yield self.head
        if self.video is not None:
            with self.video:
                while piece := await asyncio.to_thread(_encoded, self.video):
                    yield piece
            yield self.tail


class Results:
    """Gives the outputs of one server's jobs."""

    def __init__(
        self, store: JobStore, files: FileStore, links: FileLinks, retention: Retention
    ) -> None:
        self._store = store
        self._files = files
        self._links = links
        self._retention = retention

    async def of(self, job: Job) -> Output:
        """The output of a job that is done."""
        return await asyncio.to_thread(self._of, job)

    async def answer(
        self, job: Job, *, on_disconnect: Callable[[], None] | None = None
    ) -> Response:
        """The output, sent; `on_disconnect` is called if the caller leaves before the end."""
        output = await self.of(job)
        if job.is_kept:
            return Response(output.head, output.status, output.headers, "application/json")
        return CompletionResponse(
            output.pieces(),
            output.status,
            {**output.headers, "content-length": str(output.size)},
            "application/json",
            delivered=lambda: self.fetched(job),
            on_disconnect=on_disconnect,
        )

    async def fetched(self, job: Job) -> None:
        """The caller has the whole output."""
        noting = to_writer_thread(self._retention.fetched, job)
        await log_errors("noting that an output was fetched", noting)

    def _of(self, job: Job) -> Output:
        if job.error is not None:
            return _of_error(job.error)
        assert job.result is not None, "a job ended with neither a result nor an error"
        video = self._store.artifact(job.result["video"]["artifact"])
        if video is None:
            raise OutputExpired
        headers = {"x-fal-billable-units": "1"}
        if not job.sync_mode:
            text = as_json(output_view(job, video, self._links.of_video(job, video)))
            return Output(status=200, headers=headers, head=text)
        # The JSON with an empty data URI, cut where the video's base64 belongs.
        empty = data_uri(video, "")
        text = as_json(output_view(job, video, empty))
        cut = text.index(empty.encode()) + len(empty.encode())
        return Output(
            status=200,
            headers=headers,
            head=text[:cut],
            video=self._open(video.id),
            video_size=video.size,
            tail=text[cut:],
        )

    def _open(self, artifact_id: str) -> IO[bytes]:
        try:
            return self._files.open(artifact_id)
        except FileNotFoundError as error:
            # Its time ended just after its row was read.
            raise OutputExpired from error


class ClosingResponse(StreamingResponse):
    """A streamed response that closes what makes its body, also where it was cut off.

    Starlette leaves that to the garbage collector, which closes generators within each other in
    any order: the outer one then fails, as the inner one is being closed.
    """

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(content, status, headers, media_type)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._content):
            await super().__call__(scope, receive, send)


class CompletionResponse(ClosingResponse):
    """A response that calls `delivered` if it was sent to its end, else `on_disconnect`."""

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        *,
        delivered: Callable[[], Awaitable[None]],
        on_disconnect: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(self._to_the_end(content), status, headers, media_type)
        self._delivered = delivered
        self._cut_off = on_disconnect
        self._is_complete = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self._is_complete and self._cut_off is not None:
                self._cut_off()
        if self._is_complete:
            await self._delivered()

    async def _to_the_end(
        self, content: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        # It is asked for the next piece when the one before was sent.
        async with contextlib.aclosing(content):
            async for piece in content:
                yield piece
        self._is_complete = True


def _of_error(error: JobError) -> Output:
    may_be_retried = "true" if error.http_status >= 500 else "false"
    headers = {
        "x-fal-billable-units": "0",
        # fal's documents have both names.
        "x-fal-retryable": may_be_retried,
        "x-fal-needs-retry": may_be_retried,
    }
    if error.error_type is not None:
        headers["x-fal-error-type"] = error.error_type
    if error == TOO_LATE:
        # The time was the caller's own: clients do not send such a request again.
        headers["x-fal-request-timeout-type"] = "user"
    return Output(status=error.http_status, headers=headers, head=as_json(error.body))


def _encoded(file: IO[bytes]) -> bytes:
    return b64encode(file.read(PIECE_BYTES))
