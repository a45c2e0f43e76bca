"""Whether the process lives, and whether it can make videos."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from server.pool import SlotState, SlotView
from server.services import ServicesDep

router = APIRouter(prefix="/health")


@router.get("/live")
async def live() -> Response:
    """200 whenever the process answers: it never depends on a model."""
    return JSONResponse({"status": "live"})


@router.get("/ready")
async def ready(services: ServicesDep) -> Response:
    """200 when a worker has loaded the model, be it busy or not; the body says how far each is.

    A server that was told to end is not ready.
    """
    slots = services.pool.slots()
    has_model = any(slot.state in (SlotState.IDLE, SlotState.BUSY) for slot in slots)
    is_ready = has_model and not services.drain.has_begun
    body = {
        "status": "ready" if is_ready else "not ready",
        "slots": [_slot_view(slot) for slot in slots],
    }
    return JSONResponse(body, 200 if is_ready else 503)


def _slot_view(slot: SlotView) -> dict[str, Any]:
    view: dict[str, Any] = {"name": slot.name, "state": slot.state.value, "device": slot.device}
    if slot.device_name is not None:
        view |= {"device_name": slot.device_name, "attention": slot.attention}
    if slot.loading is not None:
        view["loading"] = {"text": slot.loading.text, "fraction": slot.loading.fraction}
    if slot.down_reason is not None:
        view["down_reason"] = slot.down_reason
    return view
