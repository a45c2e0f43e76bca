"""What a chaos run counted, as a table for the terminal and for docs/reliability.md."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_ROOT = Path(__file__).parent.parent
PAGE = _ROOT / "docs" / "reliability.md"
COUNTS = {
    "acknowledged": "jobs acknowledged",
    "lost": "lost",
    "doubled": "doubled",
    "wrongly_terminal": "wrongly terminal",
    "changed": "changed after their end",
    "uploads_lost": "uploads lost",
    "webhooks_wrong": "webhooks missing or wrong",
    "orphans": "orphans left",
    "unexpected_answers": "unexpected answers",
    "given_up": "given up, for two workers died on them",
    "asked_to_try_again": "answered with 503 and `Retry-After`, and asked again",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A target of `make` that breaks servers; its result has its name, and its part of the page.

    `titles` are those of its parts.
    """

    name: str
    titles: Mapping[str, str]

    @property
    def result(self) -> Path:
        return _ROOT / "benchmarks" / "results" / f"{self.name}.json"

    @property
    def on_the_page(self) -> re.Pattern[str]:
        begin, end = f"<!-- made by `make {self.name}` -->\n", "<!-- the end of it -->"
        return re.compile(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", re.DOTALL)


_FAILPOINTS = "{rounds} rounds of every failpoint, {seconds:,.0f} s"
ONE_SERVER = Kind(
    "chaos",
    {
        "random": "at random, {seconds:,.0f} s",
        "failpoints": _FAILPOINTS,
    },
)
CLUSTER = Kind(
    "chaos-cluster",
    {
        "servers": "two servers, {kills} faults, {seconds:,.0f} s",
        "ray": "with Ray, {kills} faults, {seconds:,.0f} s",
        "failpoints": _FAILPOINTS,
    },
)
ENDED_BETWEEN = "ended in between"
"""What is done to a server, and is no fault."""


def print_table(report: dict[str, Any], kind: Kind) -> None:
    """Print the results of a run."""
    titles, *rows = table_rows(report, kind)
    table = Table(*titles)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def write_page(report: dict[str, Any], page: Path, kind: Kind) -> None:
    """Put the results of a run into the page."""
    page.write_text(kind.on_the_page.sub(lambda _: page_text(report, kind), page.read_text()))


def table_rows(report: dict[str, Any], kind: Kind) -> list[list[str]]:
    """The results as rows of text, the first of which has the titles."""
    parts: dict[str, dict[str, Any]] = report["parts"]
    columns = list(parts.values())
    faults = sorted({fault for part in columns for fault in part["faults"]} - {ENDED_BETWEEN})
    return [
        ["", *(kind.titles[name].format(**part) for name, part in parts.items())],
        ["commit", *(f"`{part['commit']}`" for part in columns)],
        *([title, *(f"{part[name]:,}" for part in columns)] for name, title in COUNTS.items()),
        *([fault, *(f"{part['faults'].get(fault, 0):,}" for part in columns)] for fault in faults),
    ]


def page_text(report: dict[str, Any], kind: Kind) -> str:
    """What the page says of a run."""
    titles, *rows = table_rows(report, kind)
    table = [titles, ["---", *("--:" for _ in titles[1:])], *rows]
    machine, python = report["machine"], report["versions"]["python"]
    return "\n".join(
        [
            f"The last run was on {machine['cores']} cores ({machine['cpu']}), Python {python};",
            f"`benchmarks/results/{kind.name}.json` has the rest of it.",
            "",
            *(f"| {' | '.join(cells)} |" for cells in table),
            "",
        ]
    )
