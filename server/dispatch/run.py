"""One run of one job on one slot: a work order goes out, and its events become rows and files."""

import asyncio
import mimetypes
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ContentPolicyViolation, EncoderKilled
from pipeline.progress import Note, Restarted, StageStarted, StepDone
from pipeline.spec import MAX_CHUNKS, Pixels, VideoSpec, pictures_in
from server.disk import shortage_of
from server.dispatch.artifacts import ArtifactMismatch, is_of_video, keep
from server.dispatch.deadlines import Deadlines, RunDeadline
from server.dispatch.drain import Drain
from server.dispatch.judging import RunJudge
from server.dispatch.log import LogWriter
from server.dispatch.previews import Previews
from server.errors import DiskFull, FilesAway
from server.fal.endpoints import Limits
from server.fal.invalid_input import InvalidInput, error_item
from server.fal.views import given_of
from server.files.store import FileStore, IncomingFile
from server.jobs.store import JobStore
from server.models import NO_VERDICT, Job, JobError, StoredArtifact, infrastructure_error
from server.outbound.moderation import Moderation
from server.tasks import Signals, backoff_s, in_thread, log_errors, retry_until_written
from server.workers.loop import CannotLoad
from server.workers.messages import (
    Artifact,
    CancelledEvent,
    Chunk,
    Done,
    Failed,
    FrameToJudge,
    RunEvent,
    WorkOrder,
)
from server.workers.pool import Pool, SlotUnavailable, WorkerDied, WorkerTaken
from server.workers.verdicts import NoVerdict

MAX_ARTIFACT_BYTES = MAX_CHUNKS * 1024**3
"""Several times the largest video that we make; a worker that sends more is out of order."""

RUN_AGAIN_S = 10.0
"""How long a job waits whose run the machine was short of something for; doubled each time."""
RUN_AGAIN_MAX_S = 600.0

KEEP_S = 60.0
"""How long a video that was made is kept in hand while the store of files is away."""
KEEP_AGAIN_S = 1.0

_NO_ROOM = "The video was made, but the server's disk is full, so it could not be kept."


@dataclass(frozen=True, slots=True)
class _Published:
    """The run made its files."""

    done: Done
    artifacts: Mapping[str, StoredArtifact]


@dataclass(frozen=True, slots=True)
class _Died:
    """The worker, or what it started, died under the run."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Stopped:
    """The run ended with nothing to blame the job for: it was cancelled, or never began, or the
    machine was short of something. `wait_s` is how long it is not to be run again."""

    keeps_inputs: bool = True
    wait_s: float = 0.0


_Ending = _Published | JobError | _Died | _Stopped


@dataclass(eq=False, kw_only=True)
class JobRun:
    """Runs `job`, which is claimed for `slot`, and leaves its row as it should be.

    The run is to stop when `stop` is set: its caller has asked for that, or another has the job.
    """

    job: Job
    slot: str
    pool: Pool
    store: JobStore
    files: FileStore
    limits: Limits
    signals: Signals
    drain: Drain
    deadlines: Deadlines
    logs: LogWriter
    stop: asyncio.Event
    previews: Previews
    moderation: Moderation | None = None
    heard: Callable[[RunEvent], None] = lambda _: None

    def __post_init__(self) -> None:
        self._log = self.logs.open(self.job)
        self._spec = VideoSpec.from_json(self.job.input["spec"])
        self._incoming: IncomingFile | None = None
        self._received = 0
        self._kept: dict[str, StoredArtifact] = {}
        self._made_with: Mapping[str, str] = {}
        self._judge: RunJudge | None = None
        if self.moderation is not None:
            self._judge = RunJudge(self.moderation, self.pool, self.slot, self.job)

    async def run(self) -> None:
        """Run the job to its end and commit that."""
        try:
            async with asyncio.TaskGroup() as tasks:
                ending = await self._ending(tasks)
        finally:
            self.previews.forget(self.job.id)
            if self._incoming is not None:
                await self._give_up(self._incoming.discard)
        await self._commit(ending)

    async def _give_up(self, work: Callable[..., object], *args: str) -> None:
        """Remove files. What cannot be removed now is removed by the next start."""
        what = f"removing files of job {self.job.id}"
        await log_errors(what, asyncio.to_thread(work, *args))

    async def _ending(self, tasks: asyncio.TaskGroup) -> _Ending:
        """Work, and say how that ended if the machine was short of something."""
        try:
            return await self._work(tasks)
        except Exception as error:
            shortage = shortage_of(error)
            if shortage is None:
                raise
        if isinstance(shortage, DiskFull):
            # To make it again would cost the time of a GPU, and end here again.
            return infrastructure_error(_NO_ROOM, "internal_error")
        return self._later(f"{shortage} The video is made again.")

    def _later(self, why: str) -> _Stopped:
        """The job is run again after a while, which is longer each time."""
        self._log.say(why, "WARN")
        return _Stopped(wait_s=backoff_s(self.job.attempt, RUN_AGAIN_S, RUN_AGAIN_MAX_S))

    async def _work(self, tasks: asyncio.TaskGroup) -> _Ending:
        media = await asyncio.to_thread(self._media)
        if media is None:
            return _Stopped(keeps_inputs=False)
        if self._judge is not None and not (passes := await self._judge.inputs_pass(media)):
            return self._no_verdict() if passes is None else self._blocked()
        job = self.job
        order = WorkOrder(job_id=job.id, attempt=job.attempt, spec=self._spec, media=media)
        deadline = self.deadlines.begin(self.slot, self._spec.num_frames)
        watching = [tasks.create_task(self._enforce(deadline))]
        try:
            self._begin()
            async with self.pool.run(self.slot, order) as events:
                # Not before the order is sent: a worker knows no cancel of what it has not got.
                watching.append(tasks.create_task(self._cancel_when_asked()))
                async for event in events:
                    self._hear(event, deadline)
                    if isinstance(event, FrameToJudge):
                        watching.append(await self._judge_frame(event, tasks))
                        continue
                    ending = await self._take(event)
                    if ending is not None:
                        return ending
        except WorkerDied as died:
            return self._lost(died)
        except SlotUnavailable:
            return _Stopped()
        except ArtifactMismatch as mismatch:
            return infrastructure_error(str(mismatch), "runner_incomplete_response")
        finally:
            for task in watching:
                task.cancel()
        raise AssertionError("a pool's run ended without its last event")

    def _lost(self, died: WorkerDied) -> _Ending:
        if isinstance(died, WorkerTaken):
            self._log.say(f"{died} The video is made again.", "WARN")
            return _Stopped()
        return _Died(str(died))

    def _begin(self) -> None:
        """Note what the video is made with; raises SlotUnavailable if the slot has gone."""
        view = next((view for view in self.pool.slots() if view.name == self.slot), None)
        if view is None:
            raise SlotUnavailable(f"The slot {self.slot} is gone.")
        again = f", try {self.job.attempt}" if self.job.attempt > 1 else ""
        self._log.say(f"Started on {self.slot}{again}")
        self._made_with = view.made_with
        known = ", ".join(f"{name} {value}" for name, value in self._made_with.items())
        self._log.say(f"Made with {known}")

    async def _enforce(self, deadline: RunDeadline) -> None:
        await self.pool.kill(self.slot, await deadline.missed())

    def _media(self) -> dict[str, Sequence[Pixels]] | None:
        """The job's pictures; None if they were prepared for a checkpoint of another size, or are
        gone from the disk."""
        media: dict[str, Sequence[Pixels]] = {}
        assert self.job.input_refs is not None, "a job was claimed without its inputs"
        for name, artifact_id in self.job.input_refs.items():
            row = self.store.artifact(artifact_id)
            assert row is not None and row.width is not None and row.height is not None
            if (row.width, row.height) != (self.limits.width, self.limits.height):
                return None
            try:
                data = self.files.read(artifact_id)
            except FileNotFoundError:
                return None
            media[name] = pictures_in(data, row.width, row.height)
        return media

    def _hear(self, event: RunEvent, deadline: RunDeadline) -> None:
        deadline.hear(event)
        self.heard(event)
        if self._judge is None:  # else no preview has been judged
            self.previews.hear(self.job.id, event)
        elif isinstance(event, Restarted):
            self._judge.forget()

    async def _judge_frame(
        self, frame: FrameToJudge, tasks: asyncio.TaskGroup
    ) -> asyncio.Task[None]:
        if self._judge is None:
            raise ArtifactMismatch("The worker asked about a frame, and there is no guardrail.")
        return await self._judge.take(frame, tasks)

    async def _take(self, event: RunEvent) -> _Ending | None:
        """Act on one event; the ending, if it is the last."""
        match event:
            case StageStarted() | StepDone() | Note() | Restarted():
                self._log.tell(event)
            case Chunk(data):
                await in_thread(self._append, data)
            case Artifact():
                await self._keep_when_possible(event)
            case Done():
                return self._done(event)
            case CancelledEvent():
                return _Stopped()
            case Failed():
                return self._failed(event)
        return None

    def _append(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > MAX_ARTIFACT_BYTES:
            raise ArtifactMismatch(
                f"The worker sent more than {MAX_ARTIFACT_BYTES:,} bytes, which no video has."
            )
        if self._incoming is None:
            # What comes first is the video; a thumbnail is smaller than what is sent at once.
            kind = mimetypes.types_map[self._spec.container.suffix]
            self._incoming = self.files.receive(content_type=kind)
        self._incoming.write(data)

    async def _keep_when_possible(self, described: Artifact) -> None:
        ends_at = time.monotonic() + KEEP_S
        while True:
            try:
                await in_thread(self._keep, described)
                return
            except FilesAway:
                if time.monotonic() >= ends_at:
                    raise
            await asyncio.sleep(KEEP_AGAIN_S)

    def _keep(self, described: Artifact) -> None:
        if not is_of_video(described, self.limits):
            raise ArtifactMismatch("The worker described a file that is no video.")
        incoming = self._incoming = self._incoming or self.files.receive()
        if described.kind == "thumbnail" and not self.job.is_kept:
            incoming.discard()
        else:
            self._kept[described.kind] = keep(incoming, described)
        self._incoming = None

    def _done(self, done: Done) -> _Ending:
        if "video" not in self._kept:
            message = "The worker ended its run without a video."
            return infrastructure_error(message, "runner_incomplete_response")
        if self._judge is not None and not self._judge.all_passed(self._spec.num_frames):
            message = "The worker ended its run without having its frames judged."
            return infrastructure_error(message, "runner_incomplete_response")
        return _Published(done, self._kept)

    def _blocked(self) -> JobError:
        violation = ContentPolicyViolation()
        return _refused(InvalidInput.from_error(violation, given_of(self.job, violation.field)))

    def _no_verdict(self) -> _Ending:
        """The guardrail is silent: the job waits for it, but not for ever."""
        if self.moderation is not None and self.moderation.gives_up(self.job.id):
            return NO_VERDICT
        return self._later("The content checker gave no answer, so the video is made again.")

    def _failed(self, failed: Failed) -> _Ending:
        match failed:
            case Failed(field=None) if self.drain.has_begun:
                # What ends the server may have ended a process of the worker, too.
                return _Stopped()
            case Failed(code=EncoderKilled.code):
                return _Died(failed.message)
            case Failed(code=NoVerdict.code):
                return self._no_verdict()
            case Failed(code=CannotLoad.code):
                return self._later(f"{failed.message} The video waits for it.")
            case Failed(field=None, code="internal_error"):
                return infrastructure_error(failed.message, "internal_error")
            case Failed(field=None):
                return infrastructure_error(failed.message, "runner_server_error")
        assert failed.field is not None
        loc, given = ("body", failed.field), given_of(self.job, failed.field)
        item = error_item(loc, failed.message, failed.code, given, failed.context)
        return _refused(InvalidInput([item]))

    async def _commit(self, ending: _Ending) -> None:
        match ending:
            case JobError():
                self._log.say(ending.message, "ERROR")
            case _Died(reason):
                self._log.say(reason, "ERROR")
        if self.moderation is not None and not isinstance(ending, _Stopped):
            self.moderation.judged(self.job.id)
        what = f"the end of job {self.job.id}"
        rest = await self.logs.rest_of(self._log)
        if rest is not None:
            await retry_until_written(what, lambda: self.store.record([rest]))
        published = await retry_until_written(what, lambda: self._end(ending))
        if not published:
            await self._give_up(self.files.remove, *(kept.id for kept in self._kept.values()))
        self.signals.finished.notify()
        self.signals.claimable.notify()
        if isinstance(ending, _Stopped) and not ending.keeps_inputs:
            self.signals.submitted.notify()

    def _end(self, ending: _Ending) -> bool:
        """Write the ending to the job's row; whether its files are now the job's."""
        id_, attempt = self.job.id, self.job.attempt
        match ending:
            case _Published(done, artifacts):
                result = _result(done, artifacts, self._spec, self._made_with)
                return self.store.finish(id_, attempt, result=result, artifacts=artifacts.values())
            case JobError():
                self.store.finish(id_, attempt, error=ending)
            case _Died() if self.drain.has_begun:
                # What ends the server may have ended the worker, too.
                self.store.give_back(id_, attempt)
            case _Died(reason):
                error = infrastructure_error(reason, "runner_server_error")
                self.store.worker_died(id_, attempt, error)
            case _Stopped(keeps_inputs, wait_s):
                self.store.give_back(id_, attempt, keeps_inputs=keeps_inputs, wait_s=wait_s)
        return False

    async def _cancel_when_asked(self) -> None:
        await self.stop.wait()
        await self.pool.cancel(self.slot, self.job.id, self.job.attempt)


def _refused(invalid: InvalidInput) -> JobError:
    return JobError(invalid.status, invalid.body)


def _result(
    done: Done,
    artifacts: Mapping[str, StoredArtifact],
    spec: VideoSpec,
    made_with: Mapping[str, str],
) -> dict[str, Any]:
    return {
        **{kind: {"artifact": artifact.id} for kind, artifact in artifacts.items()},
        "seed": spec.seed,
        "tier": done.tier,
        "stage_seconds": done.stage_seconds,
        "made_with": made_with,
    }
