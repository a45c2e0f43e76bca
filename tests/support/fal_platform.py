"""What fal's platform API answers, as its OpenAPI document says (`v1`, tryAGI/Fal at badf521).

A field that ends with ? need not be there. What a server of one's own cannot know, though fal has
it always, is in `LEFT_OUT`.
"""

from collections.abc import Mapping
from typing import Any

LEFT_OUT = frozenset({"metadata.thumbnail_url", "metadata.date"})

_PAGE: dict[str, Any] = {"next_cursor": (str, None), "has_more": bool}
_USAGE_LINE: dict[str, Any] = {
    **dict.fromkeys(("endpoint_id", "unit", "currency"), str),
    **dict.fromkeys(("quantity", "unit_price", "cost_subtotal", "cost_discount"), float),
    "cost_total": float,
    "cost": float,
    "percent_discount": (float, None),
    "auth_method?": str,
    "auth_method_structured?": {"detail": str, "api_key_id?": str, "login_username?": str},
}
_COUNTS = ("request", "success", "user_error", "error", "startup_error", "connection_error")
_PREPARE, _DURATION = (50, 75, 90, 95, 99), (25, 50, 75, 90, 95, 99)
METRICS = (
    *(f"{name}_count" for name in (*_COUNTS, "timeout_error", "runtime_error", "cold_boot")),
    *(f"p{percent}_prepare_duration" for percent in _PREPARE),
    *(f"p{percent}_duration" for percent in _DURATION),
    *(f"p{percent}_cold_boot_duration" for percent in (50, 75, 90)),
    "total_billable_duration",
)
_ANALYTICS_LINE: dict[str, Any] = {"endpoint_id": str, **{f"{name}?": float for name in METRICS}}

MODELS: dict[str, Any] = {
    "models": [
        {
            "endpoint_id": str,
            "metadata": {
                **dict.fromkeys(("display_name", "category", "description", "status"), str),
                **dict.fromkeys(("updated_at", "thumbnail_url", "model_url", "date"), str),
                "tags": [str],
                "is_favorited": (bool, None),
                "highlighted": bool,
                "pinned": bool,
                "kind?": str,
                "stream_url?": str,
            },
            "openapi?": {"openapi": str},
        }
    ],
    **_PAGE,
}
PRICES: dict[str, Any] = {
    "prices": [{"endpoint_id": str, "unit_price": float, "unit": str, "currency": str}],
    **_PAGE,
}
ESTIMATE: dict[str, Any] = {"estimate_type": str, "total_cost": float, "currency": str}
REQUESTS: dict[str, Any] = {
    "items": [
        {
            **dict.fromkeys(("request_id", "endpoint_id", "started_at", "sent_at"), str),
            "ended_at?": (str, None),
            "status_code?": (int, None),
            "duration?": (float, None),
            "json_input?": dict,
            "json_output?": dict,
        }
    ],
    **_PAGE,
}
DELETED: dict[str, Any] = {"cdn_delete_results": [{"link": str, "exception": (str, None)}]}
USAGE: dict[str, Any] = {
    "time_series?": [{"bucket": str, "results": [_USAGE_LINE]}],
    "summary?": [_USAGE_LINE],
    **_PAGE,
}
ANALYTICS: dict[str, Any] = {
    "time_series?": [{"bucket": str, "results": [_ANALYTICS_LINE]}],
    "summary?": [_ANALYTICS_LINE],
    **_PAGE,
}
KEYS: dict[str, Any] = {
    "keys": [{"key_id": str, "alias": str, "scope": str, "created_at": str}],
    **_PAGE,
}
NEW_KEY: dict[str, Any] = {"key_id": str, "key_secret": str, "key": str}
META: dict[str, Any] = {"webhook_ip_ranges": [str]}
QUEUE: dict[str, Any] = {"queue_size": int}
ERROR: dict[str, Any] = {
    "error": {"type": str, "message": str, "docs_url?": str, "request_id?": str}
}
ERROR_TYPES = {
    *{"authorization_error", "validation_error", "not_found", "rate_limited", "server_error"},
    "not_implemented",
}


def differences(value: Any, shape: Any, at: str = "") -> list[str]:
    """Where a value is not of fal's shape; fields beside fal's are no difference."""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{at} is no list"]
        return [each for item in value for each in differences(item, shape[0], at)]
    if isinstance(shape, Mapping):
        if not isinstance(value, Mapping):
            return [f"{at} is no object"]
        found = []
        for name, wanted in shape.items():
            field, path = name.removesuffix("?"), f"{at}.{name.removesuffix('?')}".lstrip(".")
            if field in value:
                found += differences(value[field], wanted, path)
            elif field == name and not any(path.endswith(left) for left in LEFT_OUT):
                found.append(f"{path} is missing")
        return found
    kinds = shape if isinstance(shape, tuple) else (shape,)
    return [] if any(_is(value, kind) for kind in kinds) else [f"{at} is {value!r}"]


def _is(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)
