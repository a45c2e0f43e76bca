"""Requests that have ended, as fal's platform API lists them."""

from collections.abc import Mapping
from typing import Any, NotRequired

from typing_extensions import TypedDict

from server.api.platform.catalogue import time_text
from server.api.platform.paging import Paged, paged
from server.fal.endpoints import ENDPOINTS
from server.fal.views import display_url, output_view
from server.files.links import FileLinks
from server.jobs.history import Page
from server.jobs.retention import DeletedFile
from server.models import Job, StoredArtifact


class RequestItem(TypedDict):
    """A request that has ended. `thumbnail_url` is this server's own."""

    request_id: str
    endpoint_id: str
    sent_at: str
    started_at: str
    ended_at: str
    status_code: int
    duration: float
    json_input: NotRequired[dict[str, Any]]
    json_output: NotRequired[dict[str, Any]]
    thumbnail_url: NotRequired[str]


class RequestsView(Paged):
    """A page of requests."""

    items: list[RequestItem]


class DeletedFileView(TypedDict):
    """A file that was to be deleted; `exception` is why it is still there."""

    link: str
    exception: str | None


class DeletedView(TypedDict):
    """The files that a request made."""

    cdn_delete_results: list[DeletedFileView]


class QueueSizeView(TypedDict):
    """How many requests wait."""

    queue_size: int


def requests_view(page: Page, links: FileLinks, *, with_payloads: bool) -> RequestsView:
    """A page of requests, with input and output as far as they are kept."""
    items = []
    for job in page.jobs:
        item = _item(job)
        if with_payloads and job.is_kept:
            _add_payloads(item, job, page.videos.get(job.id), links)
            thumbnail = page.thumbnails.get(job.id)
            if thumbnail is not None:
                item["thumbnail_url"] = links.of_video(job, thumbnail)
        items.append(item)
    return {"items": items, **paged(page.next)}


def deleted_view(job: Job, files: list[DeletedFile], links: FileLinks) -> DeletedView:
    """What became of the files of a request."""
    return {
        "cdn_delete_results": [
            {
                "link": links.url(job.base_url, file.id, file.name, since=job.finished_at),
                "exception": file.problem,
            }
            for file in files
        ]
    }


def _item(job: Job) -> RequestItem:
    assert job.finished_at is not None, "a request that has not ended was listed"
    return {
        "request_id": job.id,
        "endpoint_id": job.endpoint,
        "sent_at": time_text(job.submitted_at),
        # fal has a time here always: one that never ran was started as it ended.
        "started_at": time_text(job.finished_at if job.started_at is None else job.started_at),
        "ended_at": time_text(job.finished_at),
        "status_code": 200 if job.error is None else job.error.http_status,
        "duration": round(max(0.0, job.finished_at - job.submitted_at), 3),
    }


def _add_payloads(
    item: RequestItem, job: Job, video: StoredArtifact | None, links: FileLinks
) -> None:
    if "spec" in job.input:
        item["json_input"] = input_view(job)
    if job.error is not None:
        item["json_output"] = dict(job.error.body)
    elif video is not None:
        item["json_output"] = output_view(job, video, links.of_video(job, video))


_IN_SPEC = {"video_output_type": "container", "video_quality": "quality"}
"""What a spec calls the fields that have another name there."""


def input_view(job: Job) -> dict[str, Any]:
    """The input of a request by the endpoint's fields, in their order.

    A file that came with the request is `data:…`.
    """
    endpoint, spec = ENDPOINTS[job.endpoint], job.input["spec"]
    sources: Mapping[str, Any] = job.input["media"]
    media = {endpoint.media_fields[name]: display_url(each) for name, each in sources.items()}
    given = {"sync_mode": job.sync_mode, **media}
    for name in endpoint.request.model_fields:
        in_spec = _IN_SPEC.get(name, name)
        if in_spec in spec:
            given[name] = spec[in_spec]
    return {name: given[name] for name in endpoint.request.model_fields if name in given}
