"""The service `queue.fal.run`: submit, ask for the status, cancel, fetch the result.

After the submit, clients keep only the first two segments of the endpoint's id; both forms work.
"""

from asyncio import to_thread
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from server.api import sse
from server.api.dependencies import CallerDep, IncomingDep, Services, ServicesDep
from server.api.openapi.parts import (
    BYTES,
    ENDPOINT_BODY,
    EVENTS,
    FULL,
    INVALID,
    LATE,
    OUTPUT,
    QUEUE_HEADERS,
    answer,
    content,
    problem,
    query,
)
from server.api.prepared import prepared_media
from server.api.results import ClosingResponse
from server.api.status_cache import StatusResponse
from server.dispatch.previews import CONTENT_TYPE
from server.errors import NoPreview, StillInProgress, UnknownJob
from server.fal.endpoints import app_of
from server.fal.urls import Service
from server.fal.views import CancelStatus, QueueStatus, as_json, status_view
from server.models import CancelAnswer, Job, JobStatus

router = APIRouter(prefix="/queue", tags=[Service.QUEUE])

_REQUEST = "/{app:path}/requests/{request_id}"


async def _found(
    request: Request,
    app: Annotated[str, Path(include_in_schema=False)],
    request_id: str,
    services: ServicesDep,
    caller: CallerDep,
) -> StatusResponse:
    """The caller's request that the path names; the answer is numbered as the request is."""
    found = await services.statuses.get(request_id)
    job = found.standing.job
    if job.key_id != caller.key_id or app not in (job.endpoint, app_of(job.endpoint)):
        raise UnknownJob
    request.state.request_id = job.id
    return found


_FoundDep = Annotated[StatusResponse, Depends(_found)]
_LogsDep = Annotated[str, Query(description="1 or true: with the log.")]
_PreviewsDep = Annotated[
    str,
    Query(
        description="1 or true: with events named preview, whose url is a data URI of an animated "
        "WebP file, and one named prepared, whose url is that of the picture in field."
    ),
]


@router.get(
    _REQUEST + "/status",
    responses={
        200: answer("It is completed, perhaps with an error.", QueueStatus),
        202: answer("It waits or runs.", QueueStatus),
    },
)
async def status(found: _FoundDep, logs: _LogsDep = "0") -> Response:
    """Where a request stands."""
    body = found.body_with_logs if _is_on(logs) else found.body
    # fal's own SDK takes HTTP 200 to mean that it is done.
    code = 200 if found.standing.job.done else 202
    return Response(body, code, media_type="application/json")


@router.get(
    _REQUEST + "/status/stream",
    response_class=StreamingResponse,
    responses={200: EVENTS},
)
async def status_stream(
    request: Request,
    found: _FoundDep,
    services: ServicesDep,
    logs: _LogsDep = "0",
    previews: _PreviewsDep = "0",
) -> Response:
    """Where a request stands, told until it is completed.

    Each event without a name is a status with new lines of the log.
    """
    job = found.standing.job
    events = _status_events(services, job, with_logs=_is_on(logs))
    if _is_on(previews):
        # fal's clients take every event for a status, so only those who ask are sent others.
        events = sse.merged(events, _preview_events(services, job))
    events = sse.with_pings(events, may_go_on=request.state.may_go_on)
    return ClosingResponse(events, headers=sse.HEADERS, media_type=sse.MEDIA_TYPE)


@router.get(
    _REQUEST + "/preview",
    response_class=Response,
    responses={
        200: content("An animated WebP file.", BYTES, CONTENT_TYPE),
        304: {"description": "It is the one that the caller has."},
        404: problem("There is none now: it waits, has begun just now, or is completed."),
    },
)
async def preview(
    found: _FoundDep,
    services: ServicesDep,
    if_none_match: Annotated[
        str, Header(description="ETags of the previews that the caller has.")
    ] = "",
) -> Response:
    """The latest preview of a request that runs."""
    latest = services.previews.get(found.standing.job.id)
    if latest is None:
        raise NoPreview
    headers = {"etag": latest.etag, "cache-control": "private, no-cache"}
    if latest.etag in if_none_match:
        return Response(status_code=304, headers=headers)
    headers["x-content-type-options"] = "nosniff"
    return Response(latest.data, headers=headers, media_type=CONTENT_TYPE)


@router.get(
    _REQUEST,
    responses={
        200: OUTPUT,
        400: problem("The request is still in progress."),
        422: INVALID,
        499: problem("The request was cancelled."),
        504: LATE,
    },
)
async def result(found: _FoundDep, services: ServicesDep) -> Response:
    """The output of a request, or the error that it ended with."""
    job = (await services.statuses.get_latest(found.standing.job.id)).standing.job
    if not job.done:
        raise StillInProgress
    return await services.results.answer(job)


@router.put(
    _REQUEST + "/cancel",
    status_code=202,
    response_description="It is being stopped.",
    responses={400: answer("It was completed already.", CancelStatus)},
)
async def cancel(found: _FoundDep, services: ServicesDep, response: Response) -> CancelStatus:
    """Stop a request."""
    outcome = await services.submissions.cancel(found.standing.job.id)
    response.status_code = 202 if outcome is CancelAnswer.REQUESTED else 400
    return {"status": outcome}


@router.post(
    "/{endpoint:path}",
    response_description="It is in the queue.",
    responses={429: FULL},
    openapi_extra={
        "parameters": [
            *QUEUE_HEADERS,
            query("fal_webhook", "Where to POST the result to.", format="uri"),
        ],
        "requestBody": ENDPOINT_BODY,
    },
)
async def submit(request: Request, services: ServicesDep, incoming: IncomingDep) -> QueueStatus:
    """Put a request in the queue.

    Invalid input is accepted, and reported by the result.
    """
    webhook_url = request.query_params.get("fal_webhook")
    if webhook_url is not None:
        webhook_url = services.webhooks.check(webhook_url)
    async with incoming.read(webhook_url=webhook_url) as submission:
        job = await services.submissions.accept_even_if_invalid(submission)
    request.state.request_id = job.id
    standing = (await services.statuses.get_patiently(job.id)).standing
    # fal answers so to every submit, also to one whose input will turn out to be invalid.
    view = status_view(standing, with_logs=False)
    view["status"] = JobStatus.IN_QUEUE
    view["queue_position"] = standing.position
    return view


async def _status_events(
    services: Services, job: Job, *, with_logs: bool
) -> AsyncGenerator[bytes, None]:
    async for news in services.statuses.news(job.id, with_logs=with_logs):
        yield sse.event(as_json(status_view(news, with_logs=with_logs)))


async def _preview_events(services: Services, job: Job) -> AsyncGenerator[bytes, None]:
    """What the video begins with, once that is prepared, and then its previews."""
    async with aclosing(services.statuses.watch(job.id)) as standings:
        async for standing in standings:
            if standing.job.input_refs is not None:
                job = standing.job
                break
    for field, data in await to_thread(prepared_media, job, services.store, services.files):
        yield sse.event(as_json({"field": field, **_webp(data)}), b"prepared")
    async for latest in services.previews.news(job.id):
        yield sse.event(as_json(_webp(latest.data)), b"preview")


def _webp(data: bytes) -> dict[str, str]:
    encoded = b64encode(data).decode()
    return {"url": f"data:{CONTENT_TYPE};base64,{encoded}", "content_type": CONTENT_TYPE}


def _is_on(switch: str) -> bool:
    return switch.lower() in ("1", "true")
