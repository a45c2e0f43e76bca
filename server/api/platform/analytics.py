"""How requests went and how long they took, by endpoint, as fal's platform API shows it."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NotRequired

from typing_extensions import TypedDict

from server.api.platform.paging import Paged
from server.errors import BadRequest
from server.jobs.usage import EndedJob

Jobs = Sequence[EndedJob]

_STARTUP = frozenset({"startup_timeout", "runner_scheduling_failure"})
_CONNECTION = frozenset(
    {
        *("runner_connection_timeout", "runner_connection_refused", "runner_connection_error"),
        "runner_disconnected",
    }
)
_TIMEOUT = frozenset({"request_timeout"})
_RUNTIME = frozenset({"internal_error", "runner_server_error", "runner_incomplete_response"})


def _with_status(first: int, last: int) -> Callable[[Jobs], int]:
    return lambda jobs: sum(first <= job.http_status <= last for job in jobs)


def _of_type(types: Collection[str]) -> Callable[[Jobs], int]:
    return lambda jobs: sum(job.error_type in types for job in jobs)


_COUNTS: Mapping[str, Callable[[Jobs], float]] = {
    "request_count": len,
    "success_count": _with_status(200, 299),
    "user_error_count": _with_status(400, 499),
    "error_count": _with_status(500, 599),
    "startup_error_count": _of_type(_STARTUP),
    "connection_error_count": _of_type(_CONNECTION),
    "timeout_error_count": _of_type(_TIMEOUT),
    "runtime_error_count": _of_type(_RUNTIME),
    "total_billable_duration": lambda jobs: round(sum(job.run_s or 0.0 for job in jobs), 3),
}
_PERCENTILE = re.compile(r"p(50|75|90|95|99)_prepare_duration|p(25|50|75|90|95|99)_duration")
_COLD_BOOTS = frozenset({"cold_boot_count", *(f"p{p}_cold_boot_duration" for p in (50, 75, 90))})
"""Workers load the model before jobs come, so no job has one: these are left out."""


class AnalyticsBucket(TypedDict):
    """The metrics within a bucket of time, endpoint by endpoint."""

    bucket: str
    results: list[dict[str, Any]]


class AnalyticsView(Paged):
    """The metrics that were asked for; one without a value is left out."""

    time_series: NotRequired[list[AnalyticsBucket]]
    summary: NotRequired[list[dict[str, Any]]]


def metrics_in(expand: Sequence[str]) -> list[str]:
    """The metrics that a call asks for.

    Raises:
        BadRequest: there are none, or one that is unknown.
    """
    names = [name for name in expand if name not in ("time_series", "summary")]
    for name in names:
        if name not in _COUNTS and name not in _COLD_BOOTS and not _PERCENTILE.fullmatch(name):
            raise BadRequest(f"expand: there is no metric {name[:50]!r}.")
    if not names:
        raise BadRequest("expand: at least one metric is required.")
    return names


def analytics_lines(jobs: Iterable[EndedJob], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The metrics of each endpoint."""
    by_endpoint: dict[str, list[EndedJob]] = defaultdict(list)
    for job in jobs:
        by_endpoint[job.endpoint].append(job)
    return [
        {"endpoint_id": endpoint, **_measured(by_endpoint[endpoint], metrics)}
        for endpoint in sorted(by_endpoint)
    ]


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent of some are not above, between its two neighbours."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _measured(jobs: Jobs, metrics: Sequence[str]) -> dict[str, float]:
    seconds = {
        "prepare_duration": [job.waited_s for job in jobs if job.waited_s is not None],
        "duration": [job.run_s for job in jobs if job.run_s is not None],
    }
    found: dict[str, float] = {}
    for name in metrics:
        if name in _COUNTS:
            found[name] = _COUNTS[name](jobs)
        elif name not in _COLD_BOOTS:
            percent, _, of = name.removeprefix("p").partition("_")
            if seconds[of]:
                found[name] = round(percentile(seconds[of], float(percent)), 3)
    return found
