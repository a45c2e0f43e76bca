"""Jobs as fal's clients see them: the bodies of status, submit and result."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, NotRequired

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from server.fal.endpoints import app_of
from server.fal.schemas import VideoFile, VideoOutput
from server.fal.urls import Service, url_for
from server.models import CancelAnswer, Job, JobSnapshot, JobStatus, LogLine, StoredArtifact


class LogLabels(TypedDict):
    """What a line of a log is listed under."""

    level: str


class LogLineView(TypedDict):
    """A line of a request's log."""

    message: str
    level: str
    source: str
    timestamp: Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
    labels: LogLabels


class QueueMetrics(TypedDict):
    """What was measured of a request, once it is done."""

    inference_time: NotRequired[Annotated[float, Field(ge=0)] | None]


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
    if job.done:
        view["metrics"] = {"inference_time": job.inference_seconds}
    if job.error is not None and job.error.error_type is not None:
        view["error"] = job.error.message
        view["error_type"] = job.error.error_type
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
    at = datetime.fromtimestamp(line.at, UTC)
    return {
        "message": line.message,
        "level": line.level,
        "source": "USER",
        "timestamp": at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "labels": {"level": line.level},
    }


def display_url(source: Mapping[str, Any]) -> str:
    """A source as an error repeats it: the URL that the caller gave."""
    return str(source.get("url", "data:…"))
