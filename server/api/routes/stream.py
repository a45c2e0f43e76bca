"""A run whose answer is a stream: what is going on, and at the end the output."""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from server.api import sse
from server.api.dependencies import IncomingDep, Services, ServicesDep
from server.api.openapi.parts import ENDPOINT_BODY, EVENTS, FULL, INVALID, REQUEST_HEADERS
from server.api.results import CompletionResponse
from server.api.routes.run import begin, until_done
from server.fal.urls import Service
from server.fal.views import as_json, status_view
from server.models import Job

router = APIRouter(prefix="/run", tags=[Service.RUN])


@router.post(
    "/{endpoint:path}/stream",
    response_class=StreamingResponse,
    responses={200: EVENTS, 422: INVALID, 429: FULL},
    openapi_extra={"parameters": REQUEST_HEADERS, "requestBody": ENDPOINT_BODY},
)
async def stream(request: Request, services: ServicesDep, incoming: IncomingDep) -> Response:
    """Make a video and tell of it meanwhile.

    Each event but the last is a status with new lines of the log; the last is the output, or
    the body of the error.
    """
    job = await begin(services, incoming)
    request.state.request_id = job.id
    return CompletionResponse(
        _events(services, job, request.state.may_go_on),
        headers=sse.HEADERS,
        media_type=sse.MEDIA_TYPE,
        delivered=lambda: services.results.fetched(job),
        on_disconnect=lambda: services.runs.disconnect(job),
    )


async def _events(
    services: Services, job: Job, may_go_on: Callable[[], Awaitable[bool]]
) -> AsyncGenerator[bytes, None]:
    progress = sse.with_pings(_progress(services, job), may_go_on=may_go_on)
    async with contextlib.aclosing(progress):
        async for event in progress:
            yield event
    done = await until_done(services, job.id)
    if done is None:
        services.runs.disconnect(job)
        return
    output = await services.results.of(done)
    async for piece in sse.event_in_pieces(output.pieces()):
        yield piece


async def _progress(services: Services, job: Job) -> AsyncGenerator[bytes, None]:
    async for news in services.statuses.news(job.id, with_logs=True):
        if news.lines or not news.job.done:
            yield sse.event(as_json(status_view(news, with_logs=True)))
