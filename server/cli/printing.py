"""How commands print rows, times and sizes: for people in columns, for scripts as JSON."""

import json
import sys
from collections.abc import Mapping, Sequence
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


def size_text(size: float) -> str:
    """A number of bytes as people read it."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def counted(count: int, noun: str) -> str:
    """A number with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def key_text(key_id: str | None, labels: Mapping[str, str], none: Any = NOTHING) -> Any:
    """A key by its label, or by its id where there is none: a key of the settings has no row."""
    return none if key_id is None else labels.get(key_id) or key_id


def say_what_is_left_out(shown: int, total: int) -> None:
    """Say that a list is not the whole one: on stderr, where it is in no script's way."""
    if shown < total:
        print(f"The latest {shown:,} of {total:,}; --limit shows more.", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print a value as JSON with its text as it is."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
