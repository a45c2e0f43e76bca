"""How many slots one dispatcher keeps busy, on SQLite and on PostgreSQL.

    make bench-cluster

The dispatcher, its tables, its files and the protocol of its pool are a server's own; workers only
let time pass, in this process, so what they cost counts, too. Jobs take as long as they say: no
time is scaled. PostgreSQL is Debian's, on the disk of this machine.
"""

import asyncio
import json
import logging
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from postgres_server import PostgresServer, running_postgres
from pydantic import SecretStr
from rich.console import Console

from benchmarks.cluster_report import RESULT, print_tables, write_page
from benchmarks.cluster_statements import statements
from benchmarks.machine import SERVER_PACKAGES, describe
from benchmarks.simulated_cluster import Meter, cluster, working
from benchmarks.simulated_pool import SIGMA, VIDEO_BYTES, SimulatedRun, Workers
from server.jobs.limits import NO_LIMITS, KeyLimits
from server.models import MAX_WORKER_DEATHS

SLOTS = (1, 8, 64, 256)
DATABASES = ("sqlite", "postgresql")
LEAST_S, MEDIAN_S = 30.0, 5.0
"""A job that keeps a slot busy takes 30 s and a lognormal time, whose median is 5 s."""
SETTLE_S = 10.0
EFFICIENCY_LIMIT, EFFICIENT = 0.97, "64 slots, busy"
INSTANT_JOBS, INSTANT_JOBS_OF_SLOT = 600, 40
FLOOD = 300
AWAY_S = 5.0


@dataclass(frozen=True, slots=True)
class Site:
    """Where a scenario runs: an empty folder, and an empty database."""

    folder: Path
    where: Path | SecretStr
    meter: Meter

    @property
    def url(self) -> SecretStr | None:
        """That of the database, None if it is SQLite's."""
        return self.where if isinstance(self.where, SecretStr) else None


@dataclass(frozen=True, slots=True)
class Sites:
    """Makes sites on one kind of database."""

    postgres: PostgresServer | None

    @contextmanager
    def site(self) -> Iterator[Site]:
        """A site that is gone at the end of the block."""
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(name)
            if self.postgres is None:
                yield Site(folder, folder / "jobs.sqlite3", Meter(None))
            else:
                url = stack.enter_context(self.postgres.database())
                yield Site(folder, url, Meter(self.postgres.pid))


def main(
    slots: Annotated[list[int], typer.Option(help="Slots of a dispatcher; several.")] = list(SLOTS),  # noqa: B006
    database: Annotated[list[str], typer.Option(help="Databases; several.")] = list(DATABASES),  # noqa: B006
    seconds: Annotated[float, typer.Option(help="How long slots are kept busy.")] = 100.0,
    out: Annotated[Path, typer.Option(help="Where the results go, as JSON.")] = RESULT,
    page: Annotated[Path | None, typer.Option(help="The page to put the tables into.")] = None,
) -> None:
    """Run every scenario, print tables, and fail if a job was lost or slots were idle too long."""
    # What the simulated workers die of is no news.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    report: dict[str, Any] = describe((*SERVER_PACKAGES, "psycopg"))
    report |= {"job_s": round(_mean_s(LEAST_S, MEDIAN_S), 1), "video_bytes": VIDEO_BYTES}
    report["databases"] = {}
    for name in database:
        with ExitStack() as stack:
            postgres = None
            if name == "postgresql":
                postgres = stack.enter_context(running_postgres(Path(tempfile.gettempdir())))
            part = report["databases"][name] = {}
            for what, found in measured(Sites(postgres), slots, seconds):
                part[what] = found
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(report, indent=2) + "\n")
                Console(stderr=True).print(name, what, found)
    print_tables(report)
    if page is not None:
        write_page(report, page)
    if problems := list(problems_of(report)):
        sys.exit("\n".join(problems))


def measured(
    sites: Sites, slots: Sequence[int], seconds: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What every scenario finds, by its name."""
    for count in slots:
        instants = Workers(slots=count)
        workers = Workers(slots=count, least_s=LEAST_S, median_s=MEDIAN_S)
        guests = Workers(slots=count, least_s=5.0, median_s=1.0)
        with sites.site() as site:
            yield f"{count} slots, instant jobs", asyncio.run(instant(site, instants))
        with sites.site() as site:
            yield f"{count} slots, busy", asyncio.run(busy(site, workers, seconds))
        with sites.site() as site:
            yield f"{count} slots, jobs arrive", asyncio.run(arriving(site, guests, seconds / 4))
    short = Workers(slots=64, least_s=4.0, median_s=1.0)
    for what, limits in (("no limit", NO_LIMITS), ("48 of a key run", KeyLimits(running=48))):
        with sites.site() as site:
            yield f"three keys, {what}", asyncio.run(sharing(site, short, limits))
    failing = Workers(slots=64, least_s=1.0, median_s=1.0, deaths=0.05, load_s=3.0)
    with sites.site() as site:
        yield "deaths and nodes that go", asyncio.run(faults(site, failing, seconds / 2))
    with sites.site() as site:
        yield "statements", statements(site.where, site.meter)


async def instant(site: Site, workers: Workers) -> dict[str, Any]:
    """Jobs that take no time: how many a dispatcher can claim, run and end in a second."""
    async with cluster(site.where, site.folder, workers) as made:
        for _ in range(min(INSTANT_JOBS, INSTANT_JOBS_OF_SLOT * workers.slots)):
            await made.submit()
        with site.meter.measuring() as used:
            async with working(made, site.url):
                await made.until_finished()
        rows = made.rows()
    seconds = max(row.finished_at for row in rows) - min(row.started_at for row in rows)
    return {
        "jobs": len(rows),
        "jobs_per_second": round(len(rows) / seconds, 1),
        "video_mib_per_second": round(len(rows) * VIDEO_BYTES / 2**20 / seconds, 1),
        "writes_per_job": round(used.writes / len(rows), 2),
    }


async def busy(site: Site, workers: Workers, seconds: float) -> dict[str, Any]:
    """A queue that is never empty: how much of the time that slots are there do they work."""
    async with cluster(site.where, site.folder, workers) as made:
        for _ in range(int(workers.slots * (2 + seconds / workers.least_s))):
            await made.submit()
        async with working(made, site.url):
            # All slots are given their first jobs meanwhile.
            await asyncio.sleep(SETTLE_S)
            with site.meter.measuring() as used:
                await asyncio.sleep(seconds - SETTLE_S)
            runs = list(made.pool.runs)
    found = _cycles(runs)
    return {
        "runs": len(runs),
        "efficiency": round(sum(run.work_s for run, _ in found) / sum(s for _, s in found), 4),
        "idle_ms": _quantiles([s - run.work_s for run, s in found]),
        **used.per_second(),
    }


async def arriving(site: Site, workers: Workers, seconds: float) -> dict[str, Any]:
    """Jobs that come at random, for half of the slots: how long those wait that find one free."""
    chance = random.Random(workers.seed)
    mean_s = _mean_s(workers.least_s, workers.median_s)
    free: set[str] = set()
    async with (
        cluster(site.where, site.folder, workers) as made,
        working(made, site.url),
    ):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(chance.expovariate(workers.slots / mean_s / 2))
            has_room = made.idle_slots() > len(made.submitted) - len(made.pool.runs)
            job_id = await made.submit()
            if has_room:
                free.add(job_id)
        await made.until_finished()
        rows = made.rows()
    waits = [row.started_at - row.submitted_at for row in rows if row.id in free]
    return {"jobs": len(rows), "found_a_free_slot": len(waits), "wait_ms": _quantiles(waits)}


async def sharing(site: Site, workers: Workers, limits: KeyLimits) -> dict[str, Any]:
    """One key has filled the queue as two others begin to submit: how long each one's jobs wait."""
    async with cluster(site.where, site.folder, workers, limits) as made:
        for _ in range(FLOOD):
            await made.submit("flood")
        async with working(made, site.url):
            for _ in range(20):
                for key_id in ("a", "b"):
                    await made.submit(key_id)
                await asyncio.sleep(0.5)
            await made.until_finished()
            rows = made.rows()
    waits: dict[str, list[float]] = {}
    for row in rows:
        waits.setdefault(row.key_id, []).append(row.started_at - row.submitted_at)
    return {f"wait_ms of {key_id}": _quantiles(of_key) for key_id, of_key in waits.items()}


async def faults(site: Site, workers: Workers, seconds: float) -> dict[str, Any]:
    """Workers die, and a node is away half of the time: is every job ended, and once?"""
    async with (
        cluster(site.where, site.folder, workers) as made,
        working(made, site.url),
    ):
        nodes = workers.slots // workers.slots_of_node
        away = int(seconds / (2 * AWAY_S))
        for number in range(away):
            made.pool.leave(number % nodes)
            for _ in range(int(workers.slots * AWAY_S / 2)):
                await made.submit()
            await asyncio.sleep(AWAY_S)
            made.pool.join(number % nodes)
            await asyncio.sleep(AWAY_S)
        await made.until_finished()
        rows, videos = made.rows(), made.count_videos()
    made_well = sum(row.http_status == 200 for row in rows)
    given_up = sum(
        row.http_status == 500 and row.worker_deaths == MAX_WORKER_DEATHS for row in rows
    )
    return {
        "jobs": len(rows),
        "runs": sum(row.attempt for row in rows),
        "made": made_well,
        "given_up_at_the_second_death": given_up,
        "lost": len(made.submitted) - made_well - given_up,
        "doubled": videos - made_well,
        "nodes_left": away,
    }


def problems_of(report: dict[str, Any]) -> Iterator[str]:
    """What was not as it should be."""
    for name, part in report["databases"].items():
        for what, found in part.items():
            if found.get("lost") or found.get("doubled"):
                yield f"{name}, {what}: jobs were lost or made twice"
            if what == EFFICIENT and found["efficiency"] < EFFICIENCY_LIMIT:
                yield f"{name}, {what}: slots worked {found['efficiency']:.1%} of the time"


def _mean_s(least_s: float, median_s: float) -> float:
    """How long a job takes on average: see `Workers`."""
    return least_s + median_s * math.exp(SIGMA**2 / 2)


def _cycles(runs: Sequence[SimulatedRun]) -> list[tuple[SimulatedRun, float]]:
    """Each run with the seconds from its start to that of the next one on its slot."""
    later: dict[str, SimulatedRun] = {}
    found = []
    for run in reversed(runs):
        if run.slot in later and run.ended_at is not None:
            found.append((run, later[run.slot].started_at - run.started_at))
        later[run.slot] = run
    return found


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """The median, the 99th percentile and the most, in milliseconds."""
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    times = {"p50": cuts[49], "p99": cuts[98], "max": max(seconds)}
    return {name: round(1000 * value, 1) for name, value in times.items()}


if __name__ == "__main__":
    typer.run(main)
