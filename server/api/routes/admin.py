"""What the people who run a server tell it; where keys are asked for, these are of scope admin."""

import asyncio

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from server.api.dependencies import AdminDep, Services, ServicesDep
from server.fal.urls import Service

router = APIRouter(prefix=f"/{Service.ADMIN.value}/queue")


@router.get("")
async def state(services: ServicesDep, _: AdminDep) -> Response:
    """Whether the queue is paused."""
    return await _state(services)


@router.post("/pause")
async def pause(services: ServicesDep, _: AdminDep) -> Response:
    """Start no more jobs; those that run go on, and requests are still accepted."""
    await asyncio.to_thread(services.queue_switch.pause)
    return await _state(services)


@router.post("/resume")
async def resume(services: ServicesDep, _: AdminDep) -> Response:
    """Start jobs again."""
    await asyncio.to_thread(services.queue_switch.resume)
    services.signals.claimable.notify()
    return await _state(services)


async def _state(services: Services) -> Response:
    since = await asyncio.to_thread(services.queue_switch.paused_since)
    return JSONResponse({"paused": since is not None, "paused_since": since})
