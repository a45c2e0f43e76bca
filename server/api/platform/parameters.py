"""The parameters of fal's platform API, by fal's names. Lists are repeated, or have commas."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from server.api.platform.windows import (
    Timeframe,
    Window,
    aligned,
    timeframe_of,
    window,
    zone_of,
)
from server.errors import BadRequest, UnknownEndpoint
from server.fal.endpoints import ENDPOINTS
from server.jobs.history import Outcome, SortBy

MAX_IDS = 50
MAX_REQUESTS = 100
MAX_ITEMS = 1000


def _split(values: Any) -> Any:
    if not isinstance(values, list):
        return values
    return [part.strip() for value in values for part in str(value).split(",") if part.strip()]


Ids = Annotated[list[str], BeforeValidator(_split), Field(max_length=MAX_IDS)]
Cursor = Annotated[str | None, Field(description="`next_cursor` of the page before.")]
Limit = Annotated[int, Field(ge=1, le=MAX_ITEMS, description="Items of a page.")]
EndpointIds = Annotated[Ids, Field(description="Ids of endpoints, up to 50.")]
OneOrMoreIds = Annotated[Ids, Field(min_length=1, description="Ids of endpoints, 1 to 50.")]


class PageQuery(BaseModel):
    """Which page of a list."""

    model_config = ConfigDict(frozen=True)

    limit: Limit = 100
    cursor: Cursor = None


class ModelsQuery(PageQuery):
    """Which endpoints, and whether with their documents."""

    endpoint_id: EndpointIds = []
    q: Annotated[str, Field(description="Words that all are in its name or description.")] = ""
    category: Annotated[str | None, Field(description="Such as image-to-video.")] = None
    status: Annotated[
        Literal["active", "deprecated"] | None, Field(description="All here are active.")
    ] = None
    expand: Annotated[
        list[Literal["openapi-3.0"]],
        BeforeValidator(_split),
        Field(description="openapi-3.0: with the document of its queue."),
    ] = []


class PricingQuery(PageQuery):
    """Which endpoints."""

    endpoint_id: OneOrMoreIds


class WindowQuery(PageQuery):
    """Which time. Without an offset times are UTC."""

    start: Annotated[
        datetime | None, Field(description="ISO 8601 time or date; a day ago, if left out.")
    ] = None
    end: Annotated[datetime | None, Field(description="Until before then; now, if left out.")] = (
        None
    )


class RequestsQuery(WindowQuery):
    """Which requests, and in which order."""

    endpoint_id: OneOrMoreIds
    limit: Annotated[int, Field(ge=1, le=MAX_REQUESTS, description="Requests of a page.")] = 50
    status: Annotated[Outcome | None, Field(description="How they ended.")] = None
    request_id: Annotated[
        str | None, Field(description="One request; `start` is then 90 days ago, if left out.")
    ] = None
    expand: Annotated[
        list[Literal["payloads"]],
        BeforeValidator(_split),
        Field(description="payloads: with input and output."),
    ] = []
    sort_by: Annotated[SortBy, Field(description="The latest or the longest first.")] = (
        SortBy.ENDED_AT
    )


class SeriesQuery(WindowQuery):
    """Which time, and into which buckets it is cut."""

    timezone: Annotated[
        str, Field(description="Name of the time zone of buckets, and of times without offset.")
    ] = "UTC"
    timeframe: Annotated[
        Timeframe | None, Field(description="Length of a bucket; by the window, if left out.")
    ] = None
    bound_to_timeframe: Annotated[
        Literal["true", "false"],
        Field(description="Whether the window is widened to whole buckets."),
    ] = "true"

    def buckets(self, now: float) -> tuple[Window, Timeframe]:
        """The window, and the length of its buckets."""
        found = window(self.start, self.end, now=now, zone=zone_of(self.timezone))
        timeframe = self.timeframe or timeframe_of(found)
        return aligned(found, timeframe) if self.bound_to_timeframe == "true" else found, timeframe


class UsageQuery(SeriesQuery):
    """Whose use of what."""

    endpoint_id: EndpointIds = []
    api_key_id: Annotated[Ids, Field(description="Ids of keys, up to 50.")] = []
    login_username: Annotated[
        Ids, Field(max_length=0, description="Refused: this server has keys, and no logins.")
    ] = []
    expand: Annotated[
        list[Literal["time_series", "summary", "auth_method", "auth_method_structured"]],
        BeforeValidator(_split),
        Field(description="time_series, summary or both; auth_method: key by key."),
    ] = ["time_series"]


class AnalyticsQuery(SeriesQuery):
    """Which metrics of what."""

    endpoint_id: OneOrMoreIds
    expand: Annotated[
        list[str],
        BeforeValidator(_split),
        Field(description="time_series, summary or both, and names of metrics."),
    ] = ["time_series", "request_count"]


class Quantity(BaseModel):
    """How much of an endpoint: calls or videos, by the type of the estimate."""

    call_quantity: Annotated[int | None, Field(ge=1, le=10**9)] = None
    unit_quantity: Annotated[float | None, Field(ge=1e-6, le=1e9, allow_inf_nan=False)] = None


class Estimate(BaseModel):
    """So many calls or so many videos of each endpoint. A call makes one video."""

    estimate_type: Literal["historical_api_price", "unit_price"]
    endpoints: Annotated[dict[str, Quantity], Field(min_length=1, max_length=MAX_IDS)]

    @property
    def videos(self) -> dict[str, float]:
        """How many videos of each endpoint that makes.

        Raises:
            BadRequest: a quantity is missing, or is of the other type.
        """
        name = "call_quantity" if self.estimate_type == "historical_api_price" else "unit_quantity"
        quantities = {id_: getattr(each, name) for id_, each in self.endpoints.items()}
        if None in quantities.values():
            raise BadRequest(f"endpoints: each needs its {name}.")
        return quantities


class NewKey(BaseModel):
    """A key that is to be made."""

    alias: Annotated[str, Field(min_length=1, max_length=255, pattern=r"\S")]


def known(endpoint_ids: Sequence[str], served: Sequence[str] = tuple(ENDPOINTS)) -> Sequence[str]:
    """The ids, which all are of endpoints.

    Raises:
        UnknownEndpoint: one is not.
    """
    for endpoint_id in endpoint_ids:
        if endpoint_id not in served:
            raise UnknownEndpoint(endpoint_id[:100])
    return endpoint_ids


def check_series(expand: Sequence[str]) -> None:
    """Refuse a call that asks for neither time series nor summary."""
    if not {"time_series", "summary"} & set(expand):
        raise BadRequest("expand: at least one of time_series and summary is required.")
