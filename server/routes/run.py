"""The service `fal.run`: a request is answered when its video is there."""

import asyncio

from fastapi import APIRouter, Request, Response

from server.jobs import Job
from server.services import BaseUrlDep, BodyDep, CallerDep, EndpointDep, Services, ServicesDep

CLIENT_CLOSED_REQUEST = 499

router = APIRouter(prefix="/run")


@router.post("/{endpoint:path}")
async def run(
    request: Request,
    endpoint: EndpointDep,
    services: ServicesDep,
    caller: CallerDep,
    base_url: BaseUrlDep,
    body: BodyDep,
) -> Response:
    """Make a video and answer with it; a caller who goes away cancels it."""
    job = await services.submissions.accept(endpoint, body, base_url, caller)
    request.state.request_id = job.id
    done = await _finished_or_gone(request, services, job)
    if done is None:
        await services.cancel(job.id)
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return await services.output(done)


async def _finished_or_gone(request: Request, services: Services, job: Job) -> Job | None:
    """Wait until the job is done; None if the caller goes away before."""
    finished = asyncio.create_task(services.finished(job.id))
    gone = asyncio.create_task(_gone(request))
    await asyncio.wait({finished, gone}, return_when=asyncio.FIRST_COMPLETED)
    done = await finished if finished.done() else None
    for task in (finished, gone):
        task.cancel()
    await asyncio.gather(finished, gone, return_exceptions=True)
    return done


async def _gone(request: Request) -> None:
    """Return when the caller closes the connection. The body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
