"""The service `queue.fal.run`: submit, ask for the status, cancel, fetch the result.

After the submit, clients keep only the first two segments of the endpoint's id; both forms work.
"""

from collections.abc import AsyncGenerator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from server.api import sse
from server.api.dependencies import CallerDep, IncomingDep, Services, ServicesDep
from server.api.openapi.parts import (
    ENDPOINT_BODY,
    EVENTS,
    FULL,
    INVALID,
    LATE,
    OUTPUT,
    QUEUE_HEADERS,
    answer,
    problem,
    query,
)
from server.api.status_cache import StatusResponse
from server.errors import StillInProgress, UnknownJob
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
async def status_stream(found: _FoundDep, services: ServicesDep, logs: _LogsDep = "0") -> Response:
    """Where a request stands, told until it is completed.

    Each event is a status with new lines of the log.
    """
    job = found.standing.job
    events = sse.with_pings(
        _status_events(services, job, with_logs=_is_on(logs)),
        may_go_on=partial(services.auth.is_good, job.key_id),
    )
    return StreamingResponse(events, headers=sse.HEADERS, media_type=sse.MEDIA_TYPE)


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
    job = found.standing.job
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


def _is_on(switch: str) -> bool:
    return switch.lower() in ("1", "true")
