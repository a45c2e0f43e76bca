"""The endpoints of `api.fal.ai`, and what a video of each costs."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query
from typing_extensions import TypedDict

from server.api.dependencies import BaseUrlDep, JsonDep, ReaderDep, ServicesDep
from server.api.openapi.parts import json_body
from server.api.platform.catalogue import (
    CostView,
    ModelsView,
    PricesView,
    cost_view,
    find_models,
    model_view,
    openai_model,
    price_view,
    weights_changed_at,
)
from server.api.platform.errors import REFUSED
from server.api.platform.paging import slice_of
from server.api.platform.parameters import Estimate, ModelsQuery, PricingQuery, known
from server.fal.schemas import read_as
from server.fal.urls import Service

router = APIRouter(prefix=f"/{Service.V1.value}", tags=[Service.V1], responses=REFUSED)


class MetaView(TypedDict):
    """What receivers may want to know of this server; its own address it does not know."""

    webhook_ip_ranges: list[str]


@router.get("/models", response_description="A page of them.")
async def models(
    services: ServicesDep, base_url: BaseUrlDep, asked: Annotated[ModelsQuery, Query()]
) -> ModelsView:
    """The endpoints whose weights are here, for programs of fal and of OpenAI.

    It asks for no key, as at fal.
    """
    served = services.limits.endpoints
    wanted = known(asked.endpoint_id, served) or served
    found = [] if asked.status == "deprecated" else find_models(wanted, asked.q, asked.category)
    page, more = slice_of(found, asked.limit, asked.cursor)
    changed_at = await asyncio.to_thread(weights_changed_at, services.settings)
    limits = services.limits if asked.expand else None
    return {
        "models": [
            model_view(each, base_url, changed_at=changed_at, limits=limits) for each in page
        ],
        "object": "list",
        "data": [openai_model(each, changed_at=changed_at) for each in page],
        **more,
    }


@router.get("/models/pricing", response_description="A page of them.")
async def pricing(
    services: ServicesDep, _: ReaderDep, asked: Annotated[PricingQuery, Query()]
) -> PricesView:
    """What a video of some endpoints costs: what the operator says, or nothing."""
    wanted = known(asked.endpoint_id, services.limits.endpoints)
    page, more = slice_of(wanted, asked.limit, asked.cursor)
    return {"prices": [price_view(each, services.prices) for each in page], **more}


@router.post(
    "/models/pricing/estimate",
    response_description="The sum.",
    openapi_extra={"requestBody": json_body(Estimate)},
)
async def estimate_pricing(services: ServicesDep, _: ReaderDep, body: JsonDep) -> CostView:
    """What so many calls, or so many videos, cost together: a call makes one video."""
    asked = read_as(Estimate, body)
    known(list(asked.endpoints), services.limits.endpoints)
    return cost_view(asked.estimate_type, asked.videos, services.prices)


@router.get("/meta", response_description="It.")
async def meta() -> MetaView:
    """The networks that webhooks come from, as far as this server knows them: none."""
    return {"webhook_ip_ranges": []}
