"""What is to be expected of a request, before it is submitted. fal has no such call."""

import asyncio

from fastapi import APIRouter, Request

from server.api.dependencies import MAX_BODY_BYTES, AnyCallerDep, EndpointDep, ServicesDep
from server.api.openapi.parts import ENDPOINT_BODY, PRIORITY
from server.api.platform.errors import REFUSED
from server.fal.headers import read_options
from server.fal.urls import Service
from server.fal.views import RequestEstimate, estimate_view

router = APIRouter(prefix=f"/{Service.V1.value}", tags=[Service.V1])


@router.post(
    "/estimate/{endpoint:path}",
    response_description="What is to be expected.",
    responses=REFUSED,
    openapi_extra={"parameters": [PRIORITY], "requestBody": ENDPOINT_BODY},
)
async def estimate(
    request: Request, services: ServicesDep, endpoint: EndpointDep, caller: AnyCallerDep
) -> RequestEstimate:
    """How long a request would take, and when it would start.

    Nothing is submitted. The seconds are those of the videos that this server has made of the same
    endpoint, scaled by the work of this one: null until there is one. The wait is the work in front
    on the workers that there are: null while that is not known, the queue is paused, or no worker
    is ready.
    """
    caller.check_run(request.method, f"/{endpoint}")
    priority = read_options(request.headers).priority
    reading = services.bodies.read(request, key_id=caller.key_id, max_bytes=MAX_BODY_BYTES)
    async with reading as body:
        spec = (await asyncio.to_thread(services.submissions.parse, endpoint, body)).spec
    found = await asyncio.to_thread(services.estimates.of_request, endpoint, spec, priority)
    return {
        "endpoint_id": endpoint,
        "queue_position": found.position,
        **estimate_view(found),
    }
