"""The use that was made of a server, and how it went: `usage` and `analytics` of `api.fal.ai`."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query

from server.api.dependencies import AdminDep, ReaderDep, Services, ServicesDep
from server.api.platform.analytics import AnalyticsView, analytics_lines, metrics_in
from server.api.platform.errors import REFUSED
from server.api.platform.paging import paged, read_cursor
from server.api.platform.parameters import (
    AnalyticsQuery,
    SeriesQuery,
    UsageQuery,
    check_series,
    known,
)
from server.api.platform.series import Series
from server.api.platform.usage import UsageView, usage_lines
from server.fal.urls import Service
from server.jobs.usage import EndedJob

router = APIRouter(prefix=f"/{Service.V1.value}", tags=[Service.V1], responses=REFUSED)

Line = TypeVar("Line")


@router.get("/models/usage", response_description="A page of it.")
async def usage(
    services: ServicesDep, _: AdminDep, asked: Annotated[UsageQuery, Query()]
) -> UsageView:
    """What was used, at the prices of now; the key needs the scope admin.

    Requests count that have ended, also those that are no longer kept.
    """
    check_series(asked.expand)
    series = _series(services, asked, known(asked.endpoint_id), asked.api_key_id or None)
    labels = None
    if {"auth_method", "auth_method_structured"} & set(asked.expand):
        labels = {key.id: key.name for key in await asyncio.to_thread(services.auth.all_keys)}
    lines = partial(
        usage_lines,
        prices=services.prices,
        labels=labels,
        labelled="auth_method" in asked.expand,
        structured="auth_method_structured" in asked.expand,
    )
    view: UsageView = await asyncio.to_thread(_view, series, asked, lines)
    return view


@router.get("/models/analytics", response_description="A page of them.")
async def analytics(
    services: ServicesDep, caller: ReaderDep, asked: Annotated[AnalyticsQuery, Query()]
) -> AnalyticsView:
    """How requests went, and how long they took: a key's own, or with the scope admin all.

    Requests count that have ended, also those that are no longer kept.
    """
    check_series(asked.expand)
    series = _series(services, asked, known(asked.endpoint_id), caller.seen_keys)
    lines = partial(analytics_lines, metrics=metrics_in(asked.expand))
    view: AnalyticsView = await asyncio.to_thread(_view, series, asked, lines)
    return view


def _series(
    services: Services,
    asked: SeriesQuery,
    endpoints: Sequence[str],
    key_ids: Sequence[str | None] | None,
) -> Series:
    window, timeframe = asked.buckets(services.store.now())
    return Series(
        database=services.database,
        window=window,
        timeframe=timeframe,
        endpoints=endpoints or None,
        key_ids=key_ids,
    )


def _view(
    series: Series,
    asked: UsageQuery | AnalyticsQuery,
    lines: Callable[[Iterable[EndedJob]], Sequence[Line]],
) -> Any:
    """A page of the time series, the summary of the whole window, or both; blocks."""
    view: dict[str, Any] = {}
    next_ = None
    if "time_series" in asked.expand:
        (since,) = read_cursor(asked.cursor, float) or (None,)
        buckets, next_ = series.buckets(lines, limit=asked.limit, since=since)
        view["time_series"] = [
            {"bucket": each.at.isoformat(), "results": each.results} for each in buckets
        ]
    if "summary" in asked.expand:
        view["summary"] = series.summary(lines)
    return {**view, **paged(None if next_ is None else (next_,))}
