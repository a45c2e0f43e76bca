"""The service `queue.fal.run`: submit, ask for the status, cancel, fetch the result.

After the submit, clients keep only the first two segments of the endpoint's id; both forms work.
"""

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from server.errors import StillInProgress
from server.jobs import CancelAnswer, JobStatus
from server.services import BaseUrlDep, BodyDep, CallerDep, EndpointDep, ServicesDep
from server.views import status_view

router = APIRouter(prefix="/queue")

_REQUEST = "/{app:path}/requests/{request_id}"


@router.get(_REQUEST + "/status")
async def status(
    request: Request,
    app: str,
    request_id: str,
    services: ServicesDep,
    caller: CallerDep,
    logs: str = "0",
) -> Response:
    """Where a request stands. fal's own SDK takes HTTP 200 to mean that it is done."""
    request.state.request_id = request_id
    job = await services.find_job(app, request_id, caller)
    lines = None
    if logs.lower() in ("1", "true"):
        lines = await asyncio.to_thread(services.store.logs, job.id)
    position = 0
    if job.status is JobStatus.IN_QUEUE:
        position = await asyncio.to_thread(services.store.position, job)
    return JSONResponse(status_view(job, position, lines), 200 if job.done else 202)


@router.get(_REQUEST)
async def result(
    request: Request, app: str, request_id: str, services: ServicesDep, caller: CallerDep
) -> Response:
    """The output of a request, or the error that it ended with."""
    request.state.request_id = request_id
    job = await services.find_job(app, request_id, caller)
    if not job.done:
        raise StillInProgress
    return await services.output(job)


@router.put(_REQUEST + "/cancel")
async def cancel(
    request: Request, app: str, request_id: str, services: ServicesDep, caller: CallerDep
) -> Response:
    """Stop a request."""
    request.state.request_id = request_id
    job = await services.find_job(app, request_id, caller)
    answer = await services.cancel(job.id)
    code = 202 if answer is CancelAnswer.REQUESTED else 400
    return JSONResponse({"status": answer.value}, code)


@router.post("/{endpoint:path}")
async def submit(
    request: Request,
    endpoint: EndpointDep,
    services: ServicesDep,
    caller: CallerDep,
    base_url: BaseUrlDep,
    body: BodyDep,
) -> Response:
    """Put a request in the queue. Invalid input is accepted, and reported by the result."""
    webhook_url = request.query_params.get("fal_webhook")
    if webhook_url is not None:
        webhook_url = await services.webhooks.check(webhook_url)
    job = await services.submissions.accept_even_if_invalid(
        endpoint, body, base_url, caller, webhook_url=webhook_url
    )
    request.state.request_id = job.id
    position = await asyncio.to_thread(services.store.position, job)
    # fal answers so to every submit, also to one whose input will turn out to be invalid.
    return JSONResponse(
        status_view(job, position, None) | {"status": "IN_QUEUE", "queue_position": position}
    )
