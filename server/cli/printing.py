"""How commands print rows and times: for people in columns, for scripts as JSON."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

NOTHING = "-"
"""What stands where there is no value."""


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The rows under their header, each column as wide as it has to be."""
    table = [header, *rows]
    widths = [max(len(row[index]) for row in table) for index in range(len(header))]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)
    return "\n".join(lines)


def time_text(at: float | None) -> str:
    """A time as people and programs read it, in UTC."""
    return NOTHING if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def json_text(value: Any) -> str:
    """A value as JSON with its text as it is."""
    return json.dumps(value, ensure_ascii=False, indent=2)
