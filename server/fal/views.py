"""Jobs as fal's clients see them: the bodies of status, submit and result."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, NotRequired

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from server.fal.endpoints import ENDPOINTS, app_of
from server.fal.schemas import VideoFile, VideoOutput
from server.fal.urls import Service, url_for
from server.models import (
    CancelAnswer,
    Estimate,
    Job,
    JobProgress,
    JobSnapshot,
    JobStatus,
    LogLine,
    StoredArtifact,
)

Seconds = Annotated[float, Field(ge=0)]
DateTime = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class LogLabels(TypedDict):
    """What a line of a log is listed under."""

    level: str


class LogLineView(TypedDict):
    """A line of a request's log."""

    message: str
    level: str
    source: str
    timestamp: DateTime
    labels: LogLabels


class QueueMetrics(TypedDict):
    """What was measured of a request, once it is done, and what its video was made with.

    `stage_seconds` has the seconds of each stage, and `made_with` device, backend and versions.
    """

    inference_time: NotRequired[Seconds | None]
    stage_seconds: NotRequired[dict[str, Seconds]]
    tier: NotRequired[str | None]
    made_with: NotRequired[dict[str, str]]


class EstimateView(TypedDict):
    """What is to be expected of a request, by what this server has measured. null is unknown.

    `stage_seconds` has the seconds of each stage of its video, and `seconds` all of them together.
    """

    stage_seconds: dict[str, Seconds] | None
    seconds: Seconds | None
    wait_seconds: Seconds | None
    starts_at: DateTime | None


class RequestEstimate(EstimateView):
    """What is to be expected of a request that is not submitted yet."""

    endpoint_id: str
    queue_position: Annotated[int, Field(ge=0)]


class ProgressView(TypedDict):
    """The stage of a request that runs, and the denoising steps that it has done, if any."""

    stage: str
    step: NotRequired[Annotated[int, Field(ge=0)]]
    num_steps: NotRequired[Annotated[int, Field(ge=1)]]


class QueueStatus(TypedDict):
    """Where a request stands. `logs` and `metrics` are always there: clients fail without them."""

    status: JobStatus
    request_id: str
    gateway_request_id: str
    response_url: str
    status_url: str
    cancel_url: str
    logs: list[LogLineView] | None
    metrics: QueueMetrics
    queue_position: NotRequired[Annotated[int, Field(ge=0)]]
    estimate: NotRequired[EstimateView]
    progress: NotRequired[ProgressView]
    error: NotRequired[str]
    error_type: NotRequired[str]


class CancelStatus(TypedDict):
    """What became of a cancel."""

    status: CancelAnswer


def status_view(standing: JobSnapshot, *, with_logs: bool) -> QueueStatus:
    """The status of a job."""
    job = standing.job
    request = f"/{app_of(job.endpoint)}/requests/{job.id}"
    view: QueueStatus = {
        "status": job.status,
        "request_id": job.id,
        "gateway_request_id": job.id,
        "response_url": url_for(job.base_url, Service.QUEUE, request),
        "status_url": url_for(job.base_url, Service.QUEUE, f"{request}/status"),
        "cancel_url": url_for(job.base_url, Service.QUEUE, f"{request}/cancel"),
        "logs": [_log_view(line) for line in standing.lines] if with_logs else None,
        "metrics": {},
    }
    if job.status is JobStatus.IN_QUEUE:
        view["queue_position"] = standing.position
        if standing.estimate is not None:
            view["estimate"] = estimate_view(standing.estimate)
    if standing.progress is not None:
        view["progress"] = progress_view(standing.progress)
    if job.done:
        view["metrics"] = _metrics_view(job)
    if job.error is not None and job.error.error_type is not None:
        view["error"] = job.error.message
        view["error_type"] = job.error.error_type
    return view


def estimate_view(estimate: Estimate) -> EstimateView:
    """An estimate, to a tenth of a second."""
    stages, seconds, wait_s = estimate.stage_seconds, estimate.seconds, estimate.wait_s
    return {
        "stage_seconds": None if stages is None else {s: round(stages[s], 1) for s in stages},
        "seconds": None if seconds is None else round(seconds, 1),
        "wait_seconds": None if wait_s is None else round(wait_s, 1),
        "starts_at": None if estimate.starts_at is None else _time(estimate.starts_at),
    }


def progress_view(progress: JobProgress) -> ProgressView:
    """How far a run is."""
    view: ProgressView = {"stage": progress.stage}
    if progress.step is not None and progress.num_steps is not None:
        view["step"], view["num_steps"] = progress.step, progress.num_steps
    return view


def _metrics_view(job: Job) -> QueueMetrics:
    view: QueueMetrics = {"inference_time": job.inference_seconds}
    if job.result is not None:
        view["stage_seconds"] = job.result["stage_seconds"]
        view["tier"] = job.result.get("tier")
        view["made_with"] = job.result.get("made_with", {})
    return view


def output_view(job: Job, video: StoredArtifact, url: str) -> dict[str, Any]:
    """The output of a job that succeeded; `url` is the video's, or a data URI that holds it."""
    assert job.result is not None, "the output was asked of a job that has none"
    fps, frames = video.fps, video.frames
    file = VideoFile(
        url=url,
        content_type=video.content_type,
        file_name=video.name,
        file_size=video.size,
        width=video.width,
        height=video.height,
        fps=fps,
        duration=None if fps is None or frames is None else frames / fps,
        num_frames=frames,
    )
    return VideoOutput(video=file, seed=job.result["seed"]).model_dump()


def as_json(view: Mapping[str, Any]) -> bytes:
    """A view as it is sent."""
    return json.dumps(view, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def data_uri(file: StoredArtifact, base64: str) -> str:
    """A file as a URL that holds it."""
    return f"data:{file.content_type};base64,{base64}"


def _log_view(line: LogLine) -> LogLineView:
    return {
        "message": line.message,
        "level": line.level,
        "source": "USER",
        "timestamp": _time(line.at),
        "labels": {"level": line.level},
    }


def _time(at: float) -> str:
    moment = datetime.fromtimestamp(at, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def display_url(source: Mapping[str, Any]) -> str:
    """A source as an error repeats it: the URL that the caller gave."""
    return str(source.get("url", "data:…"))


def given_of(job: Job, field: str) -> Any:
    """What the caller gave for a field, as far as it is kept."""
    media = job.input["media"]
    for name, media_field in ENDPOINTS[job.endpoint].media_fields.items():
        if media_field == field and name in media:
            return display_url(media[name])
    return job.input["spec"].get(field)
