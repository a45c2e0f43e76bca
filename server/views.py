"""Jobs as fal's clients see them: the bodies of status, submit and result."""

import base64
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from server.addressing import Service, url_for
from server.jobs import Job, JobStatus, LogLine, StoredArtifact
from server.schemas import ImageToVideoOutput, VideoFile, app_of


def status_view(job: Job, position: int, logs: Sequence[LogLine] | None) -> dict[str, Any]:
    """The status of a job; `logs` is None where the caller asked for none.

    Clients fail on a missing key, so `logs` and `metrics` are always there.
    """
    request = f"/{app_of(job.endpoint)}/requests/{job.id}"
    view: dict[str, Any] = {
        "status": job.status.value,
        "request_id": job.id,
        "gateway_request_id": job.id,
        "response_url": url_for(job.base_url, Service.QUEUE, request),
        "status_url": url_for(job.base_url, Service.QUEUE, f"{request}/status"),
        "cancel_url": url_for(job.base_url, Service.QUEUE, f"{request}/cancel"),
        "logs": None if logs is None else [_log_view(line) for line in logs],
        "metrics": {},
    }
    if job.status is JobStatus.IN_QUEUE:
        view["queue_position"] = position
    if job.done:
        view["metrics"] = {"inference_time": job.inference_seconds}
    if job.error is not None and job.error.error_type is not None:
        view |= {"error": job.error.body["detail"], "error_type": job.error.error_type}
    return view


def output_view(job: Job, video: StoredArtifact, read: Callable[[str], bytes]) -> dict[str, Any]:
    """The output of a job that succeeded; `read` gives an artefact's bytes, for `sync_mode`."""
    assert job.result is not None, "the output was asked of a job that has none"
    fps, frames = video.fps, video.frames
    file = VideoFile(
        url=_data_uri(video, read(video.id)) if job.input["sync_mode"] else _file_url(job, video),
        content_type=video.content_type,
        file_name=video.name,
        file_size=video.size,
        width=video.width,
        height=video.height,
        fps=fps,
        duration=None if fps is None or frames is None else frames / fps,
        num_frames=frames,
    )
    return ImageToVideoOutput(video=file, seed=job.result["seed"]).model_dump()


def _file_url(job: Job, file: StoredArtifact) -> str:
    return url_for(job.base_url, Service.FILES, f"/{file.id}/{file.name}")


def _data_uri(file: StoredArtifact, data: bytes) -> str:
    return f"data:{file.content_type};base64,{base64.b64encode(data).decode()}"


def _log_view(line: LogLine) -> dict[str, Any]:
    at = datetime.fromtimestamp(line.at, UTC)
    return {
        "message": line.message,
        "level": line.level,
        "source": "USER",
        "timestamp": at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "labels": {"level": line.level},
    }
