"""How commands print rows and times: for people in columns, for scripts as JSON."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

NOTHING = "-"
"""What stands where there is no value."""


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the rows under their header, each column as wide as it has to be.

    rich's tables fold or cut an id where the terminal is narrow. Here a long line wraps.
    """
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def time_text(at: float | None) -> str:
    """A time as people and programs read it, in UTC."""
    return NOTHING if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def print_json(value: Any) -> None:
    """Print a value as JSON with its text as it is."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
