"""The endpoints, their prices, and the keys, as fal's platform API shows them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from server.api.openapi.queue import queue_document
from server.api.platform.paging import Paged
from server.config.settings import Settings
from server.fal.endpoints import ENDPOINTS, Limits
from server.fal.prices import UNIT, Prices
from server.fal.urls import Service, url_for
from server.keys import ApiKey, Scope
from weights.checkpoints import folders_in


class ModelMetadata(TypedDict):
    """What fal's pages show of a model; what this server cannot know is left out."""

    display_name: str
    category: str
    description: str
    status: Literal["active"]
    tags: list[str]
    updated_at: NotRequired[str]
    is_favorited: None
    model_url: str
    stream_url: str
    highlighted: Literal[False]
    pinned: Literal[False]
    kind: Literal["inference"]


class ModelView(TypedDict):
    """An endpoint, in fal's shape."""

    endpoint_id: str
    metadata: ModelMetadata
    openapi: NotRequired[dict[str, Any]]


class OpenAIModel(TypedDict):
    """An endpoint, in OpenAI's shape."""

    id: str
    object: Literal["model"]
    created: NotRequired[int]
    owned_by: str


class ModelsView(Paged):
    """The endpoints in two shapes: `models` is fal's, `object` and `data` are OpenAI's."""

    models: list[ModelView]
    object: Literal["list"]
    data: list[OpenAIModel]


class PriceView(TypedDict):
    """What one video of an endpoint costs."""

    endpoint_id: str
    unit_price: float
    unit: str
    currency: str


class PricesView(Paged):
    """Prices of endpoints."""

    prices: list[PriceView]


class CostView(TypedDict):
    """What so many videos cost."""

    estimate_type: Literal["historical_api_price", "unit_price"]
    total_cost: float
    currency: str


class KeyLimits(TypedDict):
    """What one key may have, where that is not what the settings say for all."""

    queue_limit: int | None
    running_limit: int | None
    submits_per_minute: int | None
    storage_limit_mib: int | None


class KeyView(TypedDict):
    """A key, without its secret. `limits` are this server's own."""

    key_id: str
    alias: str
    scope: Literal["API"]
    created_at: str
    limits: KeyLimits


class KeysView(Paged):
    """The keys that callers have."""

    keys: list[KeyView]


class NewKeyView(TypedDict):
    """A key that was made, and its secret, which is told this once."""

    key_id: str
    key_secret: str
    key: str


def find_models(
    endpoint_ids: Sequence[str], words: str = "", category: str | None = None
) -> list[str]:
    """The endpoints among these of that category that have all the words, in any case."""
    return [
        id_
        for id_ in endpoint_ids
        if category in (None, ENDPOINTS[id_].category)
        if all(word in _text_of(id_) for word in words.lower().split())
    ]


def weights_changed_at(settings: Settings) -> float | None:
    """When the folders of the weights were last changed, in Unix seconds; None if none is here."""
    folders = folders_in(str(settings.weights))
    return max((each.stat().st_mtime for each in folders if each.exists()), default=None)


def model_view(
    endpoint_id: str,
    base_url: str,
    *,
    changed_at: float | None = None,
    limits: Limits | None = None,
) -> ModelView:
    """An endpoint for callers of `base_url`; with `limits`, its document is there, too."""
    endpoint = ENDPOINTS[endpoint_id]
    metadata: ModelMetadata = {
        "display_name": endpoint.title,
        "category": endpoint.category,
        "description": endpoint.summary,
        "status": "active",
        "tags": [],
        "is_favorited": None,
        "model_url": url_for(base_url, Service.RUN, f"/{endpoint_id}"),
        "stream_url": url_for(base_url, Service.RUN, f"/{endpoint_id}/stream"),
        "highlighted": False,
        "pinned": False,
        "kind": "inference",
    }
    if changed_at is not None:
        metadata["updated_at"] = time_text(changed_at)
    view: ModelView = {"endpoint_id": endpoint_id, "metadata": metadata}
    if limits is not None:
        view["openapi"] = queue_document(endpoint_id, base_url, limits)
    return view


def openai_model(endpoint_id: str, *, changed_at: float | None = None) -> OpenAIModel:
    """An endpoint as programs for OpenAI list it."""
    view: OpenAIModel = {"id": endpoint_id, "object": "model", "owned_by": "cosmos-serve"}
    if changed_at is not None:
        view["created"] = int(changed_at)
    return view


def price_view(endpoint_id: str, prices: Prices) -> PriceView:
    """The price of an endpoint."""
    return {
        "endpoint_id": endpoint_id,
        "unit_price": prices.unit_price(endpoint_id),
        "unit": UNIT,
        "currency": prices.currency,
    }


def cost_view(
    kind: Literal["historical_api_price", "unit_price"],
    videos: Mapping[str, float],
    prices: Prices,
) -> CostView:
    """The cost of so many videos of each endpoint."""
    return {"estimate_type": kind, "total_cost": prices.cost(videos), "currency": prices.currency}


def is_callers(key: ApiKey, now: float) -> bool:
    """Whether a key is one that callers use: not an operator's, and still good."""
    has_ended = key.expires_at is not None and key.expires_at <= now
    return Scope.ADMIN not in key.scopes and key.revoked_at is None and not has_ended


def key_view(key: ApiKey) -> KeyView:
    """A key, without its secret."""
    return {
        "key_id": key.id,
        "alias": key.name,
        "scope": "API",
        "created_at": time_text(key.created_at),
        "limits": {
            "queue_limit": key.queue_limit,
            "running_limit": key.running_limit,
            "submits_per_minute": key.submits_per_minute,
            "storage_limit_mib": key.storage_limit_mib,
        },
    }


def time_text(at: float) -> str:
    """Unix seconds as fal writes a time."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _text_of(endpoint_id: str) -> str:
    endpoint = ENDPOINTS[endpoint_id]
    return f"{endpoint_id} {endpoint.title} {endpoint.summary} {endpoint.category}".lower()
