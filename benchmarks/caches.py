"""What the caches of statuses and keys are worth to clients that poll.

    make bench-caches

The first load of `benchmarks.load` is put on a server as it is, on one without the status cache,
and on one without the key cache, in turn and several times: the machine is the same for all.
"""

import asyncio
import json
import statistics
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.load import LOADS, measure, serving, submit_jobs, wait_for_pictures, wrk_version
from benchmarks.machine import SERVER_PACKAGES, describe

VARIANTS = ("as it is", "no status cache", "no key cache")
_RESULT = Path(__file__).parent / "results" / "caches.json"
_SERVE = "serve-as"


def main(
    seconds: Annotated[int, typer.Option(help="How long each load lasts.")] = 6,
    rounds: Annotated[int, typer.Option(help="How often each server is measured.")] = 5,
    out: Annotated[Path, typer.Option(help="Where the results go, as JSON.")] = _RESULT,
) -> None:
    """Measure the servers in turn, and print the median and the spread of the 99th percentile."""
    p99: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    rates: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant in VARIANTS:
            found = _poll(variant, seconds)
            p99[variant].append(found["p99_ms"])
            rates[variant].append(found["requests_per_second"])
            results = {
                name: {"p99_ms": p99[name], "requests_per_second": rates[name]} for name in VARIANTS
            }
            report = {
                **describe(SERVER_PACKAGES),
                "wrk": wrk_version(),
                "load": LOADS[0].name,
                "p99_limit_ms": LOADS[0].p99_limit_ms,
                "results": results,
            }
            out.write_text(json.dumps(report, indent=2) + "\n")
    table = Table("server", "median p99 ms", "least", "most", "median requests/s")
    for name in VARIANTS:
        times = (statistics.median(p99[name]), min(p99[name]), max(p99[name]))
        table.add_row(name, *(f"{t:.1f}" for t in times), f"{statistics.median(rates[name]):.0f}")
    Console().print(table)


def serve(variant: str) -> None:
    """Be `cosmos-serve` with one of its caches out of the way."""
    from server.api.status_cache import StatusCache, StatusResponse
    from server.auth.key_store import KeyCache
    from server.cli.main import main as cosmos_serve

    async def read_status(self: StatusCache, job_id: str) -> StatusResponse:
        return StatusResponse(await asyncio.to_thread(self._read, job_id))

    def is_stale(self: KeyCache) -> bool:  # noqa: ARG001 - the method's signature
        return True

    if variant == "no status cache":
        StatusCache.get = read_status  # type: ignore[method-assign]
    elif variant == "no key cache":
        KeyCache._is_stale = is_stale  # type: ignore[method-assign]
    cosmos_serve()


def _poll(variant: str, seconds: int) -> dict[str, Any]:
    program = [sys.executable, "-m", "benchmarks.caches", _SERVE, variant]
    with serving(program) as (url, key, folder):
        ids = submit_jobs(url, key)
        wait_for_pictures(folder)
        return measure(LOADS[0], url, key, ids, folder, seconds)


if __name__ == "__main__":
    if sys.argv[1:2] == [_SERVE]:
        chosen = sys.argv[2]
        del sys.argv[1:3]
        serve(chosen)
    else:
        typer.run(main)
