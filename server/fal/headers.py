"""What the headers of a request ask for, besides what its body says. Pure: no clock, no state.

Some of fal's headers need nothing here: `X-Fal-Runner-Hint` names a runner to prefer and
`x-fal-disable-fallbacks` forbids another model, and one server has neither.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from server.errors import BadRequest
from server.models import RequestOptions

NORMAL, LOW = 0, -1
"""Priorities; a job of a higher one goes first."""

MIN_START_TIMEOUT_S = 0.1
MAX_IDEMPOTENCY_KEY = 255
MAX_FILE_LIFETIME_S = 10.0**10
"""Three centuries; fal's client asks for one where it means for ever."""

_PRIORITIES = {"normal": NORMAL, "low": LOW}
_SWITCHES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_SECONDS = re.compile(r"\d{1,9}(\.\d*)?", re.ASCII)


def read_options(headers: Mapping[str, str]) -> RequestOptions:
    """Read a request's headers, whose names are in lower case or looked up in any.

    Raises:
        BadRequest: one of them cannot be read, or asks for what this server does not do.
    """
    if "x-app-fal-upload-policy" in headers:
        raise BadRequest(
            "This server keeps its output itself and uploads it nowhere: leave the header "
            "x-app-fal-upload-policy out."
        )
    return RequestOptions(
        priority=_priority(headers.get("x-fal-queue-priority", "normal")),
        start_timeout_s=_start_timeout_s(headers.get("x-fal-request-timeout")),
        store_io=_switch("X-Fal-Store-IO", headers.get("x-fal-store-io", "1")),
        no_retry=_switch("X-Fal-No-Retry", headers.get("x-fal-no-retry", "0")),
        file_lifetime_s=file_lifetime_s(headers.get("x-fal-object-lifecycle-preference")),
        idempotency_key=_idempotency_key(headers.get("idempotency-key")),
    )


def file_lifetime_s(lifecycle: str | None) -> float | None:
    """The seconds for which a lifecycle header wants files kept; None where it does not say.

    A header that is not JSON of this form is ignored, as fal does.

    Raises:
        BadRequest: it restricts who may read the files, which would be dangerous to ignore.
    """
    wanted = _json_object(lifecycle)
    if _restricts(wanted.get("initial_acl")):
        raise BadRequest(
            "This server has no access lists: all who know the URL of a file can read it. Leave "
            "initial_acl out of the lifecycle header."
        )
    seconds = wanted.get("expiration_duration_seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    return float(seconds) if 0 < seconds <= MAX_FILE_LIFETIME_S else None


def _json_object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _restricts(acl: object) -> bool:
    """Whether an access list keeps anybody out."""
    if not isinstance(acl, dict):
        return False
    rules = acl.get("rules")
    decisions = [rule.get("decision") for rule in rules or [] if isinstance(rule, dict)]
    return any(decision in ("hide", "forbid") for decision in (acl.get("default"), *decisions))


def _priority(text: str) -> int:
    if text.lower() not in _PRIORITIES:
        raise BadRequest(f"X-Fal-Queue-Priority is {_shown(text)}; it can be normal or low.")
    return _PRIORITIES[text.lower()]


def _start_timeout_s(text: str | None) -> float | None:
    if text is None:
        return None
    if not _SECONDS.fullmatch(text) or float(text) <= MIN_START_TIMEOUT_S:
        raise BadRequest(
            f"X-Fal-Request-Timeout is {_shown(text)}; it can be a number of seconds above "
            f"{MIN_START_TIMEOUT_S:g}."
        )
    return float(text)


def _switch(name: str, text: str) -> bool:
    if text.lower() not in _SWITCHES:
        raise BadRequest(f"{name} is {_shown(text)}; it can be 0 or 1.")
    return _SWITCHES[text.lower()]


def _idempotency_key(text: str | None) -> str | None:
    if text is not None and not 0 < len(text) <= MAX_IDEMPOTENCY_KEY:
        raise BadRequest(
            f"The Idempotency-Key has {len(text)} characters; it can have 1 to "
            f"{MAX_IDEMPOTENCY_KEY}."
        )
    return text


def _shown(text: str) -> str:
    return repr(text[:50])
