"""The service `queue.fal.run`: submit, ask for the status, cancel, fetch the result.

After the submit, clients keep only the first two segments of the endpoint's id; both forms work.
"""

from collections.abc import AsyncGenerator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from server.api import sse
from server.api.dependencies import CallerDep, IncomingDep, Services, ServicesDep
from server.api.status_cache import StatusResponse
from server.errors import StillInProgress
from server.fal.views import as_json, status_view
from server.models import CancelAnswer, Job

router = APIRouter(prefix="/queue")

_REQUEST = "/{app:path}/requests/{request_id}"


async def _found(
    request: Request, app: str, request_id: str, services: ServicesDep, caller: CallerDep
) -> StatusResponse:
    """The caller's request that the path names; the answer is numbered as the request is."""
    found = await services.find(app, request_id, caller)
    request.state.request_id = found.standing.job.id
    return found


_FoundDep = Annotated[StatusResponse, Depends(_found)]


@router.get(_REQUEST + "/status")
async def status(found: _FoundDep, logs: str = "0") -> Response:
    """Where a request stands. fal's own SDK takes HTTP 200 to mean that it is done."""
    body = found.body_with_logs if _is_on(logs) else found.body
    code = 200 if found.standing.job.done else 202
    return Response(body, code, media_type="application/json")


@router.get(_REQUEST + "/status/stream")
async def status_stream(found: _FoundDep, services: ServicesDep, logs: str = "0") -> Response:
    """Every change of where a request stands, until it is done."""
    job = found.standing.job
    events = sse.with_pings(
        _status_events(services, job, with_logs=_is_on(logs)),
        may_go_on=partial(services.auth.is_good, job.key_id),
    )
    return StreamingResponse(events, headers=sse.HEADERS, media_type=sse.MEDIA_TYPE)


@router.get(_REQUEST)
async def result(found: _FoundDep, services: ServicesDep) -> Response:
    """The output of a request, or the error that it ended with."""
    job = found.standing.job
    if not job.done:
        raise StillInProgress
    return await services.results.answer(job)


@router.put(_REQUEST + "/cancel")
async def cancel(found: _FoundDep, services: ServicesDep) -> Response:
    """Stop a request."""
    answer = await services.submissions.cancel(found.standing.job.id)
    code = 202 if answer is CancelAnswer.REQUESTED else 400
    return JSONResponse({"status": answer.value}, code)


@router.post("/{endpoint:path}")
async def submit(request: Request, services: ServicesDep, incoming: IncomingDep) -> Response:
    """Put a request in the queue. Invalid input is accepted, and reported by the result."""
    webhook_url = request.query_params.get("fal_webhook")
    if webhook_url is not None:
        webhook_url = await services.webhooks.check(webhook_url)
    accept = services.submissions.accept_even_if_invalid
    job = await incoming.accepted(accept, webhook_url=webhook_url)
    request.state.request_id = job.id
    standing = (await services.statuses.get(job.id)).standing
    # fal answers so to every submit, also to one whose input will turn out to be invalid.
    queued = {"status": "IN_QUEUE", "queue_position": standing.position}
    return JSONResponse(status_view(standing, with_logs=False) | queued)


async def _status_events(
    services: Services, job: Job, *, with_logs: bool
) -> AsyncGenerator[bytes, None]:
    async for news in services.statuses.news(job.id, with_logs=with_logs):
        yield sse.event(as_json(status_view(news, with_logs=with_logs)))


def _is_on(switch: str) -> bool:
    return switch.lower() in ("1", "true")
