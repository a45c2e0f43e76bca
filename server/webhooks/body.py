"""What a webhook says: how the job ended, and what its result gives."""

import json
from base64 import b64encode
from typing import Any

from server.fal.views import data_uri, output_view
from server.files.links import FileLinks
from server.files.store import FileStore
from server.jobs.store import JobStore
from server.models import Job

MAX_INLINE_BYTES = 16 * 1024 * 1024
"""The largest video that `sync_mode` puts into a webhook: it is made again for every try, and few
receivers read so much."""


def webhook_body(job: Job, jobs: JobStore, files: FileStore, links: FileLinks) -> bytes:
    """The JSON for a job that has ended.

    It is the same at every try, but for the URL of a video that is signed for less time than the
    tries take.
    """
    if job.error is not None:
        problem = f"Invalid status code: {job.error.http_status}"
        ending = {"status": "ERROR", "error": problem, "payload": job.error.body}
    else:
        ending = _output(job, jobs, files, links)
    body = {"request_id": job.id, "gateway_request_id": job.id, **ending}
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()


def _output(job: Job, jobs: JobStore, files: FileStore, links: FileLinks) -> dict[str, Any]:
    assert job.result is not None, "a job ended with neither a result nor an error"
    video = jobs.artifact(job.result["video"]["artifact"])
    if video is None:
        return _without_payload("The result is no longer kept.")
    if job.sync_mode and video.size > MAX_INLINE_BYTES:
        return _without_payload(
            f"The video has {video.size:,} bytes; with sync_mode a webhook carries up to "
            f"{MAX_INLINE_BYTES:,}. Ask the queue for the result."
        )
    if job.sync_mode:
        url = data_uri(video, b64encode(files.read(video.id)).decode())
    else:
        url = links.of_video(job, video)
    return {"status": "OK", "payload": output_view(job, video, url)}


def _without_payload(reason: str) -> dict[str, Any]:
    """fal's form for a job that succeeded, with an output that cannot be sent along."""
    return {"status": "OK", "payload": None, "payload_error": reason}
