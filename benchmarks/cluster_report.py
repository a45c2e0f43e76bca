"""What `benchmarks.cluster` measured, as tables for the terminal and for docs/cluster.md."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULT = Path(__file__).parent / "results" / "cluster.json"
GPUS = 1000
MIB = 2**20
POLL_EVERY_S = 1.0
"""How often the caller of a job asks how it stands, in the plan."""

SLOT_TITLES = [
    "database",
    "slots",
    "efficiency",
    "idle between jobs, p50 / p99 ms",
    "claim after a submit, p50 / p99 ms",
    "writes/s",
    "reads/s",
    "cores",
    "jobs/s of no time",
]

_ON_THE_PAGE = re.compile(
    r"(?<=<!-- made by `make bench-cluster` -->\n).*(?=<!-- the end of it -->)", re.DOTALL
)

Rows = list[list[str]]


def print_tables(report: dict[str, Any]) -> None:
    """Print the results."""
    for titles, *rows in (slot_rows(report), statement_rows(report), plan_rows(report)):
        table = Table(*titles)
        for row in rows:
            table.add_row(*row)
        Console().print(table)


def write_page(report: dict[str, Any], page: Path) -> None:
    """Put the results into the page."""
    page.write_text(page_text(page.read_text(), report))


def page_text(page: str, report: dict[str, Any]) -> str:
    """The page with what it says of a run."""
    return _ON_THE_PAGE.sub(lambda _: _tables(report), page)


def _tables(report: dict[str, Any]) -> str:
    machine, versions = report["machine"], report["versions"]
    return "\n".join(
        [
            f"Measured at commit `{report['commit']}`, on {machine['cores']} cores "
            f"({machine['cpu']}, load {machine['load_average']:.1f} at the start),",
            f"Python {versions['python']}, PostgreSQL on the same disk and cores; "
            "`benchmarks/results/cluster.json` has the rest.",
            "",
            *_markdown(slot_rows(report)),
            "",
            "Transactions by the 8 threads with which a server writes, beside "
            f"{_of(report, 'statements')['waiting_jobs']:,} waiting jobs:",
            "",
            *_markdown(statement_rows(report)),
            "",
            *_sharing(report),
            "",
            *_faults(report),
            "",
            f"{GPUS:,} GPUs with jobs of {_job_s(report):.0f} s on PostgreSQL; what saturates "
            "first is at the top:",
            "",
            *_markdown(plan_rows(report)),
            "",
        ]
    )


def _sharing(report: dict[str, Any]) -> Iterator[str]:
    """How long jobs wait behind those of a key that has filled the queue."""
    part = _of_postgresql(report)
    yield "Seconds that the jobs of two keys wait, behind 300 of a third one on 64 slots:"
    yield ""
    yield "| jobs of a key that may run at once | median | most |"
    yield "| --- | --: | --: |"
    for limit in ("no limit", "48 of a key run"):
        waits = part[f"three keys, {limit}"]
        of_later = [waits[f"wait_ms of {key}"] for key in ("a", "b")]
        median, most = (max(times[name] for times in of_later) / 1000 for name in ("p50", "max"))
        yield f"| {limit.removesuffix(' of a key run')} | {median:.1f} | {most:.1f} |"


def _faults(report: dict[str, Any]) -> Iterator[str]:
    """What became of the jobs as workers died."""
    found = _of_postgresql(report)["deaths and nodes that go"]
    yield (
        f"Of {found['jobs']} jobs, beside workers of which one in twenty dies and nodes that leave "
        f"{found['nodes_left']} times, {found['made']}"
    )
    given_up = found["given_up_at_the_second_death"]
    yield (
        f"were made in {found['runs']} runs and {given_up} given up at their second death; "
        f"{found['lost']} were lost and {found['doubled']} doubled."
    )


def slot_rows(report: dict[str, Any]) -> Rows:
    """A row for each database and number of slots, under their titles."""
    rows = [SLOT_TITLES]
    for name, part in report["databases"].items():
        for what, found in part.items():
            slots, _, scenario = what.partition(" slots, ")
            if scenario != "busy":
                continue
            waits = part[f"{slots} slots, jobs arrive"]["wait_ms"]
            idle = found["idle_ms"]
            instant = part[f"{slots} slots, instant jobs"]["jobs_per_second"]
            rates = (f"{found[rate]:.1f}" for rate in ("writes_per_second", "reads_per_second"))
            efficiency, cores = f"{found['efficiency']:.3f}", f"{found['cores']:.2f}"
            times = (_pair(idle), _pair(waits))
            rows.append([name, slots, efficiency, *times, *rates, cores, f"{instant:.0f}"])
    return rows


def statement_rows(report: dict[str, Any]) -> Rows:
    """A row for each transaction, under their titles."""
    databases = report["databases"]
    titles = [f"{name}, {what}" for name in databases for what in ("ms alone", "a second")]
    rows = [["transaction", *titles]]
    for what, found in _of(report, "statements").items():
        if isinstance(found, dict):
            measured = [part["statements"][what] for part in databases.values()]
            cells = [(f"{each['alone_ms']:.1f}", f"{each['per_second']:.0f}") for each in measured]
            rows.append([what, *(cell for pair in cells for cell in pair)])
    return rows


def plan_rows(report: dict[str, Any]) -> Rows:
    """What so many GPUs want of each part, and how many it suffices for, under their titles."""
    found = sorted(_plan(report), key=lambda row: row[2] / row[1])
    rows = [["part", f"wanted by {GPUS:,} GPUs", "measured", "suffices for GPUs"]]
    for what, wanted, measured, unit in found:
        gpus = round(GPUS * measured / wanted, -1)
        rows.append([what, f"{wanted:.1f} {unit}", f"{measured:.1f} {unit}", f"{gpus:,.0f}"])
    return rows


def _plan(report: dict[str, Any]) -> Iterator[tuple[str, float, float, str]]:
    part = _of_postgresql(report)
    ends = GPUS / _job_s(report)
    slots, busiest = max(
        (int(what.split()[0]), found) for what, found in part.items() if what.endswith("busy")
    )
    instant = part[f"{slots} slots, instant jobs"]
    statements = part["statements"]
    cores = busiest["cores"] * GPUS / slots
    yield "the dispatcher's interpreter, with the simulated workers", cores, 1.0, "cores"
    if "postgres_cores" in busiest:
        of_postgres = busiest["postgres_cores"] * GPUS / slots
        yield "PostgreSQL, for the dispatcher", of_postgres, 1.0, "cores"
    yield "whole jobs through one dispatcher", ends, instant["jobs_per_second"], "/s"
    mib = ends * report["video_bytes"] / MIB
    yield "videos through one dispatcher", mib, instant["video_mib_per_second"], "MiB/s"
    for what in ("submit", "claim", "finish"):
        yield f"the transaction {what}", ends, statements[what]["per_second"], "/s"
    polls = GPUS / POLL_EVERY_S
    asked = "statuses that no server has in its cache, one a second for each job that runs"
    yield asked, polls, statements["standing"]["per_second"], "/s"


def _job_s(report: dict[str, Any]) -> float:
    """How long the jobs took that kept the slots busy."""
    return float(report["job_s"])


def _of(report: dict[str, Any], what: str) -> dict[str, Any]:
    return dict(_any(report)[what])


def _of_postgresql(report: dict[str, Any]) -> dict[str, Any]:
    """What was measured there, or else on the database that was."""
    return dict(report["databases"].get("postgresql") or _any(report))


def _any(report: dict[str, Any]) -> dict[str, Any]:
    return dict(next(iter(report["databases"].values())))


def _pair(times: dict[str, float]) -> str:
    return f"{times['p50']:.0f} / {times['p99']:.0f}" if times else "unmeasured"


def _markdown(rows: Rows) -> list[str]:
    titles, *rest = rows
    table = [titles, ["---", *("--:" for _ in titles[1:])], *rest]
    return [f"| {' | '.join(cells)} |" for cells in table]
