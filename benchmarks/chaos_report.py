"""What a chaos run counted, as a table for the terminal and for docs/reliability.md."""

import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
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
TITLES = {
    "random": "at random, {seconds:,.0f} s",
    "failpoints": "{rounds} rounds of every failpoint, {seconds:,.0f} s",
}
ENDED_BETWEEN = "ended in between"
"""What is done to a server, and is no fault."""
_ON_THE_PAGE = re.compile(
    r"(?<=<!-- made by `make chaos` -->\n).*(?=<!-- the end of it -->)", re.DOTALL
)


def print_table(report: dict[str, Any]) -> None:
    """Print the results of a run."""
    titles, *rows = table_rows(report)
    table = Table(*titles)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def write_page(report: dict[str, Any], page: Path) -> None:
    """Put the results of a run into the page."""
    page.write_text(_ON_THE_PAGE.sub(lambda _: page_text(report), page.read_text()))


def table_rows(report: dict[str, Any]) -> list[list[str]]:
    """The results as rows of text, the first of which has the titles."""
    parts: dict[str, dict[str, Any]] = report["parts"]
    columns = list(parts.values())
    faults = sorted({fault for part in columns for fault in part["faults"]} - {ENDED_BETWEEN})
    return [
        ["", *(TITLES[name].format(**part) for name, part in parts.items())],
        *([title, *(f"{part[name]:,}" for part in columns)] for name, title in COUNTS.items()),
        *([fault, *(f"{part['faults'].get(fault, 0):,}" for part in columns)] for fault in faults),
    ]


def page_text(report: dict[str, Any]) -> str:
    """What the page says of a run."""
    titles, *rows = table_rows(report)
    table = [titles, ["---", *("--:" for _ in titles[1:])], *rows]
    machine, python = report["machine"], report["versions"]["python"]
    return "\n".join(
        [
            f"The last run was of commit `{report['commit']}`, on {machine['cores']} cores "
            f"({machine['cpu']}),",
            f"Python {python}; `benchmarks/results/chaos.json` has the rest of it.",
            "",
            *(f"| {' | '.join(cells)} |" for cells in table),
            "",
        ]
    )
