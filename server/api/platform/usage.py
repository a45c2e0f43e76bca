"""What was used, by endpoint and key, as fal's platform API shows it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NotRequired

from typing_extensions import TypedDict

from server.api.platform.paging import Paged
from server.fal.prices import UNIT, Prices
from server.jobs.usage import EndedJob


class AuthMethod(TypedDict):
    """The key that requests came with; without its id, where none was asked for."""

    detail: str
    api_key_id: NotRequired[str]


class UsageLine(TypedDict):
    """What was used of an endpoint. `gpu_seconds` is this server's own."""

    endpoint_id: str
    unit: str
    quantity: int
    unit_price: float
    percent_discount: None
    cost_subtotal: float
    cost_discount: float
    cost_total: float
    cost: float
    currency: str
    gpu_seconds: float
    auth_method: NotRequired[str]
    auth_method_structured: NotRequired[AuthMethod]


class UsageBucket(TypedDict):
    """What was used within a bucket of time."""

    bucket: str
    results: list[UsageLine]


class UsageView(Paged):
    """What was used."""

    time_series: NotRequired[list[UsageBucket]]
    summary: NotRequired[list[UsageLine]]


def usage_lines(
    jobs: Iterable[EndedJob],
    prices: Prices,
    *,
    labels: Mapping[str, str] | None = None,
    labelled: bool = False,
    structured: bool = False,
) -> list[UsageLine]:
    """A line for each endpoint, or, with the `labels` of keys, for each endpoint and key.

    What is sold is videos: a request that failed counts for `gpu_seconds` alone.
    """
    videos: dict[tuple[str, str | None], int] = defaultdict(int)
    gpu_s: dict[tuple[str, str | None], float] = defaultdict(float)
    for job in jobs:
        of = (job.endpoint, None if labels is None else job.key_id)
        videos[of] += job.has_video
        gpu_s[of] += job.gpu_s
    lines = []
    for endpoint, key_id in sorted(gpu_s, key=lambda of: (of[0], of[1] or "")):
        quantity = videos[endpoint, key_id]
        line = _line(endpoint, quantity, gpu_s[endpoint, key_id], prices)
        if labels is not None:
            detail = "None" if key_id is None else labels.get(key_id, key_id)
            if labelled:
                line["auth_method"] = detail
            if structured:
                by_key: AuthMethod = {"detail": detail}
                if key_id is not None:
                    by_key["api_key_id"] = key_id
                line["auth_method_structured"] = by_key
        lines.append(line)
    return lines


def _line(endpoint: str, videos: int, gpu_s: float, prices: Prices) -> UsageLine:
    cost = prices.cost({endpoint: videos})
    return {
        "endpoint_id": endpoint,
        "unit": UNIT,
        "quantity": videos,
        "unit_price": prices.unit_price(endpoint),
        "percent_discount": None,
        "cost_subtotal": cost,
        "cost_discount": 0.0,
        "cost_total": cost,
        "cost": cost,
        "currency": prices.currency,
        "gpu_seconds": round(gpu_s, 3),
    }
