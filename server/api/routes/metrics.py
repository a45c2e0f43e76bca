"""Numbers for Prometheus. Where the server asks for keys, they are for those of scope admin."""

import asyncio

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from server.api.dependencies import AdminDep, ServicesDep
from server.api.openapi.parts import text
from server.fal.urls import Service

router = APIRouter(prefix=f"/{Service.DISCOVERY.value}", tags=[Service.DISCOVERY])


@router.get("/metrics", response_class=Response, responses={200: text("The metrics.")})
async def metrics(services: ServicesDep, _: AdminDep) -> Response:
    """Numbers for Prometheus; the key needs the scope admin.

    How much waits, how it ends, and how long it takes.
    """
    numbers = await asyncio.to_thread(services.metrics.text)
    return Response(numbers, headers={"content-type": CONTENT_TYPE_LATEST})
