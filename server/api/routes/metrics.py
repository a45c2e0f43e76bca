"""Numbers for Prometheus. Where the server asks for keys, they are for those of scope admin."""

import asyncio

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from server.api.dependencies import AdminDep, ServicesDep
from server.fal.urls import Service

router = APIRouter(prefix=f"/{Service.DISCOVERY.value}")


@router.get("/metrics")
async def metrics(services: ServicesDep, _: AdminDep) -> Response:
    """How much waits, how it ends, and how long it takes."""
    text = await asyncio.to_thread(services.metrics.text)
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})
