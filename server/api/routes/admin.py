"""What the people who run a server tell it; where keys are asked for, these are of scope admin."""

import asyncio

from fastapi import APIRouter
from typing_extensions import TypedDict

from server.api.dependencies import AdminDep, Services, ServicesDep
from server.fal.urls import Service
from server.jobs import pause
from server.tasks import to_writer_thread

_DESCRIPTION = "Whether the queue is paused, and since when in Unix seconds."

router = APIRouter(prefix=f"/{Service.ADMIN.value}/queue", tags=[Service.ADMIN])


class QueueState(TypedDict):
    """Whether the queue is paused, and since when in Unix seconds."""

    paused: bool
    paused_since: float | None


@router.get("", response_description=_DESCRIPTION)
async def queue_state(services: ServicesDep, _: AdminDep) -> QueueState:
    """Whether the queue is paused; the key needs the scope admin."""
    return await _state(services)


@router.post("/pause", response_description=_DESCRIPTION)
async def pause_queue(services: ServicesDep, _: AdminDep) -> QueueState:
    """Start no more jobs; the key needs the scope admin.

    Those that run go on, and requests are still accepted.
    """
    await to_writer_thread(pause.pause, services.database)
    return await _state(services)


@router.post("/resume", response_description=_DESCRIPTION)
async def resume_queue(services: ServicesDep, _: AdminDep) -> QueueState:
    """Start jobs again; the key needs the scope admin."""
    await to_writer_thread(pause.resume, services.database)
    services.signals.claimable.notify()
    return await _state(services)


async def _state(services: Services) -> QueueState:
    return state_of_queue(await asyncio.to_thread(pause.paused_since, services.database))


def state_of_queue(since: float | None) -> QueueState:
    """The switch as callers see it."""
    return {"paused": since is not None, "paused_since": since}
