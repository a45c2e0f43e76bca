"""What finished jobs cost those that come: the same work beside 100 of them and beside 200,000.

    make bench-growth

The tables are made in a temporary folder; no server and no model take part.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from growth import OPERATIONS, FullTables
from rich.console import Console
from rich.table import Table

from benchmarks.machine import SERVER_PACKAGES, describe

FINISHED = (100, 1_000, 10_000, 50_000, 200_000)
_TIMES = 15
_RESULT = Path(__file__).parent / "results" / "growth.json"


def main(
    finished: Annotated[list[int], typer.Option(help="Finished jobs; several.")] = list(FINISHED),  # noqa: B006
    out: Annotated[Path, typer.Option(help="Where the results go, as JSON.")] = _RESULT,
) -> None:
    """Time each operation beside ever more finished jobs, and print a table."""
    sizes = []
    for number in finished:
        with tempfile.TemporaryDirectory() as folder:
            full = FullTables(Path(folder), number)
            sizes.append({"finished": number, "median_ms": measured(full)})
            full.database.close()
    report = {**describe(SERVER_PACKAGES), "times": _TIMES, "sizes": sizes}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    Console().print(_table(sizes))


def measured(full: FullTables) -> dict[str, float]:
    """The median of some repetitions of each operation, in milliseconds."""
    return {
        name: round(statistics.median(_ms(operation, full) for _ in range(_TIMES)), 3)
        for name, operation in OPERATIONS.items()
    }


def _ms(operation: Callable[[FullTables], Any], full: FullTables) -> float:
    started = time.perf_counter()
    operation(full)
    return 1000 * (time.perf_counter() - started)


def _table(sizes: list[dict[str, Any]]) -> Table:
    table = Table("ms beside finished jobs", *(f"{size['finished']:,}" for size in sizes))
    for name in OPERATIONS:
        table.add_row(name, *(f"{size['median_ms'][name]:.2f}" for size in sizes))
    return table


if __name__ == "__main__":
    typer.run(main)
