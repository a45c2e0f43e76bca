"""The service `fal.run`: a request is answered when its video is there."""

import asyncio

from fastapi import APIRouter, Request, Response

from server.api.dependencies import Incoming, IncomingDep, Services, ServicesDep
from server.api.openapi.parts import ENDPOINT_BODY, FULL, INVALID, LATE, OUTPUT, REQUEST_HEADERS
from server.fal.urls import Service
from server.models import Job

CLIENT_CLOSED_REQUEST = 499

router = APIRouter(prefix="/run", tags=[Service.RUN])


@router.post(
    "/{endpoint:path}",
    responses={200: OUTPUT, 422: INVALID, 429: FULL, 504: LATE},
    openapi_extra={"parameters": REQUEST_HEADERS, "requestBody": ENDPOINT_BODY},
)
async def run(request: Request, services: ServicesDep, incoming: IncomingDep) -> Response:
    """Make a video and wait for it.

    A caller who goes away and does not return cancels it.
    """
    job = await begin(services, incoming)
    done = await ended(request, services, job)
    if done is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return await services.results.answer(done, on_disconnect=lambda: services.runs.disconnect(job))


async def ended(request: Request, services: Services, job: Job) -> Job | None:
    """Wait until the job is done; None if its caller has gone away.

    Raises:
        Unauthorized: its key has ended before.
    """
    request.state.request_id = job.id
    try:
        done = await _done_or_gone(request, services, job)
    except Exception:
        # The caller is told to come back, and is then given this job.
        services.runs.disconnect(job)
        raise
    if done is None:
        services.runs.disconnect(job)
        await services.auth.check_key(job.key_id)
    return done


async def begin(services: Services, incoming: Incoming) -> Job:
    """Accept a run. A function of its own, so that nothing holds the body while the run waits."""
    async with incoming.read() as submission:
        return await services.runs.begin(submission)


async def until_done(services: Services, job_id: str) -> Job | None:
    """Wait until the job is done; None if its key ends before."""
    while True:
        seen = services.signals.finished.count
        job = (await services.statuses.get_patiently(job_id)).standing.job
        if not await services.auth.is_good(job.key_id):
            return None
        if job.done:
            return job
        await services.signals.finished.wait(seen)


async def _done_or_gone(request: Request, services: Services, job: Job) -> Job | None:
    """Wait until the job is done; None if the caller goes away, or its key ends, before."""
    done = asyncio.create_task(until_done(services, job.id))
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
        return None if gone.done() else await done
    finally:
        for task in (done, gone):
            task.cancel()
        await asyncio.gather(done, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    """Return when the caller closes the connection. The body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
