"""Jobs as OpenAI's clients see them: videos, pages of them, and one that was deleted."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from pipeline.spec import FPS
from server.fal.endpoints import Limits
from server.jobs.records import JobRecord
from server.models import Job, JobError, JobProgress, JobStatus

VideoStatus = Literal["queued", "in_progress", "completed", "failed"]


class VideoError(TypedDict):
    """Why a video could not be made; the code is fal's type of the error."""

    code: str
    message: str


class VideoView(TypedDict):
    """A video that was asked for. What its request did not leave in the tables is null."""

    id: str
    object: Literal["video"]
    model: str
    status: VideoStatus
    progress: Annotated[int, Field(ge=0, le=100)]
    created_at: int
    completed_at: int | None
    expires_at: int | None
    size: str
    seconds: str | None
    prompt: str | None
    remixed_from_video_id: None
    error: VideoError | None
    num_frames: int | None
    fps: int
    seed: int | None


class VideoPage(TypedDict):
    """Some videos, in order; `last_id` is what the next page comes after."""

    object: Literal["list"]
    data: list[VideoView]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(TypedDict):
    """A video that is gone."""

    id: str
    object: Literal["video.deleted"]
    deleted: bool


def video_view(record: JobRecord, limits: Limits, keep_s: float | None) -> VideoView:
    """A job as a video. `keep_s` is how long jobs are kept after they ended; None is for ever."""
    job, video = record.job, record.video
    # Of a job whose input is not kept, or was invalid, there is none.
    spec: Mapping[str, Any] = job.input.get("spec", {})
    num_frames = spec.get("num_frames")
    width, height = limits.width, limits.height
    if video is not None and video.width is not None and video.height is not None:
        width, height = video.width, video.height
    return {
        "id": job.id,
        "object": "video",
        "model": job.endpoint,
        "status": status_of(job),
        "progress": _progress(job, record.progress),
        "created_at": int(job.submitted_at),
        "completed_at": _whole(job.finished_at),
        "expires_at": _whole(_end(record, keep_s)),
        "size": f"{width}x{height}",
        "seconds": None if num_frames is None else f"{num_frames / FPS:g}",
        "prompt": spec.get("prompt"),
        "remixed_from_video_id": None,
        "error": None if job.error is None else _error(job.error),
        "num_frames": num_frames,
        "fps": FPS,
        "seed": spec.get("seed"),
    }


def page_view(videos: Sequence[VideoView], *, has_more: bool) -> VideoPage:
    """A page of videos, and whether others follow."""
    return {
        "object": "list",
        "data": list(videos),
        "first_id": videos[0]["id"] if videos else None,
        "last_id": videos[-1]["id"] if videos else None,
        "has_more": has_more,
    }


def status_of(job: Job) -> VideoStatus:
    """OpenAI's word for the state of a job."""
    if job.status is JobStatus.IN_QUEUE:
        return "queued"
    if job.status is JobStatus.IN_PROGRESS:
        return "in_progress"
    return "completed" if job.error is None else "failed"


def _progress(job: Job, run: JobProgress | None) -> int:
    """The denoising steps that are done, in percent; 100 once the video is there."""
    if status_of(job) == "completed":
        return 100
    if job.status is JobStatus.IN_QUEUE or run is None or not run.num_steps:
        return 0
    return min(99, 100 * (run.step or 0) // run.num_steps)


def _error(error: JobError) -> VideoError:
    detail = error.body["detail"]
    code = error.body.get("error_type") or detail[0]["type"]
    return {"code": str(code), "message": error.message}


def _end(record: JobRecord, keep_s: float | None) -> float | None:
    """When the video goes."""
    finished_at = record.job.finished_at
    kept_until = None if keep_s is None or finished_at is None else finished_at + keep_s
    ends = [end for end in (record.expires_at, kept_until) if end is not None]
    return min(ends, default=None)


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
