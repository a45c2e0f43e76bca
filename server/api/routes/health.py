"""Whether the process lives, and whether it can make videos."""

from typing import NotRequired

from fastapi import APIRouter, Response
from typing_extensions import TypedDict

from pipeline.guardrail import GuardrailKind
from pipeline.memory_plan import MemoryPlan
from server.api.dependencies import Services, ServicesDep
from server.api.openapi.parts import answer
from server.api.readiness import Check
from server.api.routes.admin import QueueState, state_of_queue
from server.fal.urls import Service
from server.workers.pool import SlotView

router = APIRouter(prefix="/health", tags=[Service.HEALTH])

READY = "ready"


class Liveness(TypedDict):
    """That the process answers."""

    status: str


class CheckView(TypedDict):
    """A need of the server; `problem` is a sentence if it is not met."""

    name: str
    passed: bool
    problem: NotRequired[str]


class LoadingView(TypedDict):
    """How far a worker has loaded."""

    text: str
    fraction: float


class GuardrailView(TypedDict):
    """Who judges prompts, pictures and frames; `warning` says what is not judged."""

    kind: GuardrailKind
    warning: NotRequired[str]


class SlotStatus(TypedDict):
    """A worker's place and what it is doing."""

    name: str
    state: str
    device: str | None
    device_name: NotRequired[str]
    attention: NotRequired[str | None]
    memory: NotRequired[MemoryPlan | None]
    kernels: NotRequired[str | None]
    kernels_problem: NotRequired[str]
    loading: NotRequired[LoadingView]
    down_reason: NotRequired[str]


class WaitingView(TypedDict):
    """How many requests wait for the weights of an endpoint."""

    endpoint: str
    requests: int


class ReadinessView(TypedDict):
    """Whether the server is ready, and why it is not."""

    status: str
    checks: list[CheckView]
    guardrail: GuardrailView
    slots: list[SlotStatus]
    queue: QueueState
    waiting_for_weights: list[WaitingView]


@router.get("/live", response_description="It does.")
async def live() -> Liveness:
    """Whether the process answers.

    It never depends on a model.
    """
    return {"status": "live"}


@router.get(
    "/ready",
    response_description="It could.",
    responses={503: answer("Something is missing.", ReadinessView)},
)
async def ready(services: ServicesDep, response: Response) -> ReadinessView:
    """Whether a video could be made now, and what is missing.

    Now or, as there is a queue, soon: a worker has loaded the model, busy or not, the guardrail
    gives verdicts, the database can be written, the disk is not full, every part of the server
    runs, and it was not told to end. The body says which of these is not so, who the guardrail is,
    how far loading is, whether the queue is paused, and which requests wait for weights that are
    not here.
    """
    view = await readiness_view(services)
    response.status_code = 200 if view["status"] == READY else 503
    return view


async def readiness_view(services: Services) -> ReadinessView:
    """Whether the server is ready, and why it is not."""
    checks = await services.readiness.checks()
    is_ready = all(check.problem is None for check in checks)
    return {
        "status": READY if is_ready else "not ready",
        "checks": [_check_view(check) for check in checks],
        "guardrail": _guardrail_view(services.guardrail),
        "slots": [_slot_view(slot) for slot in services.pool.slots()],
        "queue": state_of_queue(services.readiness.paused_since),
        "waiting_for_weights": [
            {"endpoint": endpoint, "requests": requests}
            for endpoint, requests in services.readiness.waiting_for_weights.items()
        ],
    }


def _check_view(check: Check) -> CheckView:
    view: CheckView = {"name": check.name, "passed": check.problem is None}
    if check.problem is not None:
        view["problem"] = check.problem
    return view


def _guardrail_view(kind: GuardrailKind) -> GuardrailView:
    view: GuardrailView = {"kind": kind}
    if kind.warning is not None:
        view["warning"] = kind.warning
    return view


def _slot_view(slot: SlotView) -> SlotStatus:
    view: SlotStatus = {"name": slot.name, "state": slot.state.value, "device": slot.device}
    if slot.device_name is not None:
        view["device_name"] = slot.device_name
        view["attention"] = slot.attention
        view["memory"] = slot.memory
        view["kernels"] = slot.kernels
    if slot.kernels_problem is not None:
        view["kernels_problem"] = slot.kernels_problem
    if slot.loading is not None:
        view["loading"] = {"text": slot.loading.text, "fraction": slot.loading.fraction}
    if slot.down_reason is not None:
        view["down_reason"] = slot.down_reason
    return view
