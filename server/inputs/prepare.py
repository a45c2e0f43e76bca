"""A submitted picture or video becomes an artifact of this server: pixels of the model's size.

It comes as a data URI, as the URL of a file of this server, or as any other URL, and is read from
the disk. A job can be claimed once its media are here; one whose medium cannot be used ends with
fal's 422.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import structlog

from pipeline.errors import ContentPolicyViolation, InputError
from pipeline.image import Tell
from pipeline.spec import Pixels
from server.disk import shortage_of
from server.errors import FileUrlRefused, UnknownFile, UnknownJob
from server.fal.endpoints import ENDPOINTS, Limits
from server.fal.invalid_input import InvalidInput
from server.fal.views import display_url
from server.files.public import PublicFiles
from server.files.store import FileStore
from server.inputs.decoder import DecoderKilled, DecoderUnusable, MediaDecoder
from server.inputs.image_store import ImageStore
from server.inputs.media import MEDIA, Medium
from server.jobs.store import JobStore
from server.models import NO_VERDICT, Job, JobError, LogLine, infrastructure_error
from server.outbound.errors import FetchError, FetchTooLarge, HostRefused
from server.outbound.fetch import Fetcher
from server.outbound.moderation import GuardrailUnavailable, Moderation
from server.tasks import (
    MAX_WAIT_S,
    TRY_AGAIN_MAX_S,
    TRY_AGAIN_S,
    FairSemaphore,
    Signals,
    backoff_s,
    in_thread,
    log_errors,
    on,
    to_writer_thread,
)

AT_ONCE = 4
"""Jobs whose media are prepared at the same time."""

DECODES_AT_ONCE = 2
"""Files decoded at the same time: each may need hundreds of megabytes."""

DECODE_TRIES = 5
"""How often a file is decoded whose process is killed from outside."""

_log = structlog.get_logger("server")


class FileDownloadError(InputError):
    """The URL could not be read."""

    code = "file_download_error"


class InputLost(Exception):
    """A file that was kept is not on the disk, for which its caller is not at fault."""

    def __init__(self) -> None:
        super().__init__("The server has lost the file of this request: send it again.")


@dataclass(eq=False)
class InputPreparer:
    """Prepares the media of the jobs that wait, a few at a time; keys take turns.

    No key has all places, so a host that is slow, or a file that takes long, holds up its own.
    """

    store: JobStore
    files: FileStore
    images: ImageStore
    public_files: PublicFiles
    fetcher: Fetcher
    limits: Limits
    signals: Signals
    decoder: MediaDecoder
    moderation: Moderation | None = None
    is_stopping: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self._decoding = FairSemaphore(DECODES_AT_ONCE)
        self._in_hand: dict[asyncio.Task[None], Job] = {}
        self._failures = 0
        """How often in a row a job could be neither prepared nor refused."""

    async def run(self) -> None:
        """Look for jobs without their media until cancelled."""
        await on(self.signals.submitted, "taking in pictures", self._begin)

    async def close(self) -> None:
        """Stop the jobs under way; the next start, or another server, takes them up."""
        in_hand = dict(self._in_hand)
        for task in in_hand:
            task.cancel()
        await asyncio.gather(*in_hand, return_exceptions=True)
        if in_hand:
            letting_go = to_writer_thread(self.store.let_go, [job.id for job in in_hand.values()])
            await log_errors("leaving jobs to the next start", letting_go)

    def in_hand(self) -> dict[str, asyncio.Task[None]]:
        """The jobs whose media are being prepared, by their ids."""
        return {job.id: task for task, job in self._in_hand.items()}

    async def _begin(self) -> None:
        if self.moderation is not None and self.moderation.problem is not None:
            return
        if self.files.problem is not None:
            return
        while len(self._in_hand) < AT_ONCE:
            in_hand = list(self._in_hand.values())
            job = await to_writer_thread(self.store.awaiting_inputs, AT_ONCE, in_hand)
            if job is None:
                return
            task = asyncio.create_task(self._supervise(job))
            self._in_hand[task] = job
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._in_hand[task]
        self.signals.submitted.notify()

    async def _supervise(self, job: Job) -> None:
        if not await log_errors(f"intake of job {job.id}", self._prepare_job(job)):
            error = infrastructure_error("The input could not be stored.", "internal_error")
            if not await log_errors(f"refusing job {job.id}", self._refuse(job, error)):
                await self._wait()  # the job is taken up again

    async def _prepare_job(self, job: Job) -> None:
        lines: list[LogLine] = []

        def tell(sentence: str) -> None:
            lines.append(LogLine(self.store.now(), "WARN", sentence))

        try:
            await self._take_in(job, tell, lines)
            self._failures = 0
        except Exception as error:
            shortage = shortage_of(error)
            if shortage is None:
                raise
            _log.error(str(shortage), during=f"intake of job {job.id}")
            if isinstance(shortage, GuardrailUnavailable) and self._gives_up(job):
                await self._refuse(job, NO_VERDICT)
            else:
                await self._wait()  # the job is taken up again

    def _gives_up(self, job: Job) -> bool:
        return self.moderation is not None and self.moderation.gives_up(job.id)

    async def _wait(self) -> None:
        self._failures += 1
        await asyncio.sleep(backoff_s(self._failures, TRY_AGAIN_S, TRY_AGAIN_MAX_S))

    async def _take_in(self, job: Job, tell: Tell, lines: Sequence[LogLine]) -> None:
        try:
            if self.moderation is not None:
                await self.moderation.check_prompt(job.input["spec"]["prompt"])
            media = {name: await self._prepare(job, name, tell) for name in job.input["media"]}
            if self.moderation is not None:
                for pictures in media.values():
                    for picture in pictures:
                        await self.moderation.check_picture(picture)
                self.moderation.judged(job.id)
            await to_writer_thread(self._keep, job, media, lines)
            self.signals.claimable.notify()
        except ContentPolicyViolation as violation:
            error = InvalidInput.from_error(violation, job.input["spec"]["prompt"])
            await self._refuse(job, JobError(error.status, error.body))
        except InvalidInput as error:
            await self._refuse(job, JobError(error.status, error.body))
        except (InputLost, DecoderKilled, DecoderUnusable) as error:
            await self._refuse(job, infrastructure_error(str(error), "internal_error"))

    async def _refuse(self, job: Job, error: JobError) -> None:
        with contextlib.suppress(UnknownJob):  # it was deleted meanwhile
            await to_writer_thread(self.store.refuse_inputs, job.id, error)
        self.signals.finished.notify()

    def _keep(
        self, job: Job, media: Mapping[str, Sequence[Pixels]], lines: Sequence[LogLine]
    ) -> None:
        with self.images.incoming() as images:
            kept = {name: images.add_pixels(pictures) for name, pictures in media.items()}
            self.store.set_inputs(job.id, kept, lines=lines, place=images.place)

    async def _prepare(self, job: Job, name: str, tell: Tell) -> Sequence[Pixels]:
        source: Mapping[str, Any] = job.input["media"][name]
        field = ENDPOINTS[job.endpoint].media_fields[name]
        try:
            if "url" in source:
                file = await self._open_url(source["url"], job, field, MEDIA[name])
            else:
                file = await self._open_sent(source["artifact"])
            with file:
                return await self._decode(name, file, job, field, tell, source.get("fps"))
        except InputError as error:
            raise InvalidInput.from_error(error, display_url(source)) from error

    async def _open_sent(self, artifact_id: str) -> IO[bytes]:
        """What came with the request itself."""
        try:
            return await self._open(artifact_id)
        except FileNotFoundError as error:
            raise InputLost from error

    async def _open_url(self, url: str, job: Job, field: str, medium: Medium) -> IO[bytes]:
        """A file of this server, or of another's."""
        try:
            file = await asyncio.to_thread(self.public_files.by_url, url, job)
            if file is None:
                return await self._download(url, job, medium)
            if file.size > medium.max_bytes:
                raise medium.too_large(field)
            return await self._open(file.id)
        except (UnknownFile, FileNotFoundError) as error:
            raise FileDownloadError(field, "This server has no such file.") from error
        except FetchTooLarge as error:
            raise medium.too_large(field) from error
        except HostRefused as error:
            raise FileDownloadError(field, f"{error} Or send a data URI or an upload.") from error
        except (FileUrlRefused, FetchError) as error:
            raise FileDownloadError(field, str(error)) from error

    async def _open(self, artifact_id: str) -> IO[bytes]:
        """A file that is kept. A cancel meanwhile closes it."""
        with contextlib.ExitStack() as unless_it_opens:

            def open_it() -> IO[bytes]:
                return unless_it_opens.enter_context(self.files.open(artifact_id))

            file = await in_thread(open_it)
            unless_it_opens.pop_all()
        return file

    async def _download(self, url: str, job: Job, medium: Medium) -> IO[bytes]:
        with contextlib.ExitStack() as unless_it_arrives:
            file = unless_it_arrives.enter_context(self.files.scratch())
            await self.fetcher.download(
                url,
                file,
                max_bytes=medium.max_bytes,
                deadline_s=medium.fetch_s,
                key_id=job.key_id,
            )
            unless_it_arrives.pop_all()
            return file

    async def _decode(
        self, name: str, file: IO[bytes], job: Job, field: str, tell: Tell, fps: int | None
    ) -> Sequence[Pixels]:
        width, height = self.limits.width, self.limits.height
        tries = 0
        while True:
            tries += 1
            try:
                async with self._decoding.place(job.key_id):
                    return await self.decoder.prepare(
                        name, file, width, height, field=field, tell=tell, fps=fps
                    )
            except DecoderKilled:
                # While the server stops, the job is left to the next start.
                if tries >= DECODE_TRIES and not self.is_stopping():
                    raise
            await asyncio.sleep(backoff_s(tries, TRY_AGAIN_S, MAX_WAIT_S))
