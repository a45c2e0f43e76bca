"""The requests of `api.fal.ai`: those that have ended, and those that wait."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response

from server.api.dependencies import AdminDep, ReaderDep, ServicesDep
from server.api.platform.errors import REFUSED
from server.api.platform.paging import read_cursor
from server.api.platform.parameters import RequestsQuery, known
from server.api.platform.requests import (
    DeletedView,
    QueueSizeView,
    RequestsView,
    deleted_view,
    requests_view,
)
from server.api.platform.windows import DAY, LONGEST, window
from server.errors import UnknownEndpoint, UnknownJob
from server.fal.endpoints import ENDPOINTS, app_of
from server.fal.headers import MAX_IDEMPOTENCY_KEY
from server.fal.urls import Service
from server.jobs.history import Wanted, requests
from server.jobs.reports import count_waiting
from server.tasks import to_writer_thread

router = APIRouter(prefix=f"/{Service.V1.value}", tags=[Service.V1], responses=REFUSED)

_APP_QUEUE = "/serverless/apps/{owner}/{name}/queue"
_IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=MAX_IDEMPOTENCY_KEY,
        description="The same call, sent again within ten minutes, is done once.",
    ),
]


@router.get("/models/requests/by-endpoint", response_description="A page of them.")
async def requests_by_endpoint(
    services: ServicesDep, caller: ReaderDep, asked: Annotated[RequestsQuery, Query()]
) -> RequestsView:
    """The requests that have ended: a key's own, or with the scope admin those of all keys."""
    now = services.store.now()
    by_default = DAY if asked.request_id is None else LONGEST
    found = window(asked.start, asked.end, now=now, by_default=by_default)
    after = read_cursor(asked.cursor, float, int)
    wanted = Wanted(
        start=found.start.timestamp(),
        end=found.end.timestamp(),
        endpoints=known(asked.endpoint_id),
        key_ids=caller.seen_keys,
        outcome=asked.status,
        job_id=asked.request_id,
        sort_by=asked.sort_by,
    )
    page = await asyncio.to_thread(
        requests,
        services.database,
        wanted,
        now,
        limit=asked.limit,
        after=None if after is None else (after[0], int(after[1])),
    )
    return requests_view(page, services.file_links, with_payloads=bool(asked.expand))


@router.delete(
    "/models/requests/{request_id}/payloads",
    response_description="The files that it made, which are deleted.",
)
async def delete_payloads(
    services: ServicesDep, caller: ReaderDep, request_id: str, _: _IdempotencyKey = None
) -> DeletedView:
    """Delete the input and the output of a request that has ended, and the files that it made.

    Files that it was given stay. Sent again, with an Idempotency-Key or without, it answers the
    same.
    """
    job = await asyncio.to_thread(services.store.job, request_id)
    if caller.seen_keys is not None and job.key_id not in caller.seen_keys:
        raise UnknownJob
    job, files = await to_writer_thread(services.retention.delete_payloads, request_id)
    return deleted_view(job, files, services.file_links)


@router.get(_APP_QUEUE, response_description="How many wait.")
async def queue_length(services: ServicesDep, _: ReaderDep, owner: str, name: str) -> QueueSizeView:
    """How many requests of an app wait, of all keys."""
    endpoints = _endpoints_of(owner, name)
    waiting = await asyncio.to_thread(count_waiting, services.database, endpoints)
    return {"queue_size": waiting}


@router.delete(_APP_QUEUE, status_code=204, response_description="None waits any more.")
async def flush_queue(
    services: ServicesDep,
    caller: AdminDep,
    owner: str,
    name: str,
    idempotency_key: _IdempotencyKey = None,
) -> Response:
    """Cancel the requests of an app that wait; the key needs the scope admin.

    Those that run go on.
    """
    endpoints = _endpoints_of(owner, name)
    once = None
    if idempotency_key is not None:
        once = f"{caller.key_id}\n{owner}/{name}\n{idempotency_key}"
    await services.submissions.flush(endpoints, once)
    return Response(status_code=204)


def _endpoints_of(owner: str, name: str) -> list[str]:
    """The endpoints of an app.

    Raises:
        UnknownEndpoint: there is no such app.
    """
    found = [endpoint for endpoint in ENDPOINTS if app_of(endpoint) == f"{owner}/{name}"]
    if not found:
        raise UnknownEndpoint(f"{owner}/{name}"[:100])
    return found
