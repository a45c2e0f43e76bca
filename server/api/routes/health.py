"""Whether the process lives, and whether it can make videos."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from server.api.dependencies import ServicesDep
from server.api.readiness import Check
from server.workers.pool import SlotView

router = APIRouter(prefix="/health")


@router.get("/live")
async def live() -> Response:
    """200 whenever the process answers: it never depends on a model."""
    return JSONResponse({"status": "live"})


@router.get("/ready")
async def ready(services: ServicesDep) -> Response:
    """200 when a video could be made now or, as there is a queue, soon.

    That is: a worker has loaded the model, be it busy or not, the database can be written, the
    disk is not full, and the server was not told to end. The body says which of these is not so,
    and how far loading is.
    """
    checks = await services.readiness.checks()
    is_ready = all(check.problem is None for check in checks)
    body = {
        "status": "ready" if is_ready else "not ready",
        "checks": [_check_view(check) for check in checks],
        "slots": [_slot_view(slot) for slot in services.pool.slots()],
    }
    return JSONResponse(body, 200 if is_ready else 503)


def _check_view(check: Check) -> dict[str, Any]:
    view: dict[str, Any] = {"name": check.name, "passed": check.problem is None}
    return view if check.problem is None else view | {"problem": check.problem}


def _slot_view(slot: SlotView) -> dict[str, Any]:
    view: dict[str, Any] = {"name": slot.name, "state": slot.state.value, "device": slot.device}
    if slot.device_name is not None:
        view |= {
            "device_name": slot.device_name,
            "attention": slot.attention,
            "memory": slot.memory,
        }
    if slot.loading is not None:
        view["loading"] = {"text": slot.loading.text, "fraction": slot.loading.fraction}
    if slot.down_reason is not None:
        view["down_reason"] = slot.down_reason
    return view
