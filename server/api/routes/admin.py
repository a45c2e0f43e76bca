"""What the people who run a server tell it; where keys are asked for, these are of scope admin."""

import asyncio
from typing import NotRequired

from fastapi import APIRouter, Response
from typing_extensions import TypedDict

from server.api.dependencies import AdminDep, Services, ServicesDep
from server.api.openapi.parts import answer
from server.config.settings import Settings
from server.doctor.finding import Finding
from server.fal.urls import Service
from server.fal.views import CancelStatus, ProgressView, progress_view
from server.jobs import pause
from server.jobs.reports import Unfinished, unfinished
from server.models import CancelAnswer, JobStatus
from server.tasks import to_writer_thread

_DESCRIPTION = "Whether the queue is paused, and since when in Unix seconds."

_MAX_LISTED = 200

router = APIRouter(prefix=f"/{Service.ADMIN.value}", tags=[Service.ADMIN])


class QueueState(TypedDict):
    """Whether the queue is paused, and since when in Unix seconds."""

    paused: bool
    paused_since: float | None


class UnfinishedJob(TypedDict):
    """A request that waits or runs; times are Unix seconds."""

    request_id: str
    endpoint_id: str
    key_id: str | None
    status: JobStatus
    priority: int
    submitted_at: float
    started_at: float | None
    slot: str | None
    cancel_requested: bool
    progress: NotRequired[ProgressView]


class UnfinishedJobs(TypedDict):
    """Requests that run, and then those that wait, in the order in which they are to be started."""

    jobs: list[UnfinishedJob]


class WorkerPlace(TypedDict):
    """A worker's place, what it works with, and how often a run had too little memory there."""

    name: str
    device: str
    checkpoint_digest: str | None
    versions: dict[str, str]
    memory_shortages: int


class WorkerPlaces(TypedDict):
    """Every place of a worker."""

    slots: list[WorkerPlace]


class FindingView(TypedDict):
    """What `cosmos-serve doctor` says of one thing; `mend` is how to mend it."""

    check: str
    level: str
    text: str
    mend: str | None


class FindingsView(TypedDict):
    """What `cosmos-serve doctor` says."""

    findings: list[FindingView]


@router.get("/queue", response_description=_DESCRIPTION)
async def queue_state(services: ServicesDep, _: AdminDep) -> QueueState:
    """Whether the queue is paused; the key needs the scope admin."""
    return await _state(services)


@router.post("/queue/pause", response_description=_DESCRIPTION)
async def pause_queue(services: ServicesDep, _: AdminDep) -> QueueState:
    """Start no more jobs; the key needs the scope admin.

    Those that run go on, and requests are still accepted.
    """
    await to_writer_thread(pause.pause, services.database)
    return await _state(services)


@router.post("/queue/resume", response_description=_DESCRIPTION)
async def resume_queue(services: ServicesDep, _: AdminDep) -> QueueState:
    """Start jobs again; the key needs the scope admin."""
    await to_writer_thread(pause.resume, services.database)
    services.signals.claimable.notify()
    return await _state(services)


@router.get("/jobs", response_description="The first of them.")
async def unfinished_jobs(services: ServicesDep, _: AdminDep) -> UnfinishedJobs:
    """What runs and what waits, of all keys; the key needs the scope admin."""
    found = await asyncio.to_thread(unfinished, services.database, _MAX_LISTED)
    return {"jobs": [_unfinished_view(each) for each in found]}


@router.put(
    "/jobs/{request_id}/cancel",
    status_code=202,
    response_description="It is being stopped.",
    responses={400: answer("It was completed already.", CancelStatus)},
)
async def cancel_job(
    request_id: str, services: ServicesDep, _: AdminDep, response: Response
) -> CancelStatus:
    """Stop a request of any key; the key needs the scope admin."""
    outcome = await services.submissions.cancel(request_id)
    response.status_code = 202 if outcome is CancelAnswer.REQUESTED else 400
    return {"status": outcome}


@router.get("/slots", response_description="All of them.")
async def slots(services: ServicesDep, _: AdminDep) -> WorkerPlaces:
    """What each worker works with, beside what `/health/ready` says.

    The key needs the scope admin.
    """
    return {
        "slots": [
            {
                "name": slot.name,
                "device": slot.device,
                "checkpoint_digest": slot.checkpoint_digest,
                "versions": dict(slot.versions),
                "memory_shortages": slot.memory_shortages,
            }
            for slot in services.pool.slots()
        ]
    }


@router.get("/doctor", response_description="What it says of each thing.")
async def examine(services: ServicesDep, _: AdminDep) -> FindingsView:
    """What `cosmos-serve doctor` says of this machine; the key needs the scope admin.

    A process of its own looks at the GPUs, which takes some seconds.
    """
    found = await asyncio.to_thread(_findings, services.settings)
    return {
        "findings": [
            {"check": name, "level": each.level, "text": each.text, "mend": each.mend}
            for name, each in found.items()
        ]
    }


def _findings(settings: Settings) -> dict[str, Finding]:
    # Not above: a server starts without what the doctor looks with.
    from server.doctor.checks import findings
    from server.doctor.collect import collect

    return findings(collect(settings))


def _unfinished_view(unfinished: Unfinished) -> UnfinishedJob:
    job = unfinished.job
    view: UnfinishedJob = {
        "request_id": job.id,
        "endpoint_id": job.endpoint,
        "key_id": job.key_id,
        "status": job.status,
        "priority": job.priority,
        "submitted_at": job.submitted_at,
        "started_at": job.started_at,
        "slot": job.slot,
        "cancel_requested": job.cancel_requested,
    }
    if unfinished.progress is not None:
        view["progress"] = progress_view(unfinished.progress)
    return view


async def _state(services: Services) -> QueueState:
    return state_of_queue(await asyncio.to_thread(pause.paused_since, services.database))


def state_of_queue(since: float | None) -> QueueState:
    """The switch as callers see it."""
    return {"paused": since is not None, "paused_since": since}
