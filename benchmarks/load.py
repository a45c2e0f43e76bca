"""How the server bears clients that poll and submit while a job runs.

    make bench-load

A server is started as a user starts it, with the scripted worker of the tests in place of a model.
wrk (Debian's package of that name) is the clients; `poll.lua` checks every answer.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from api_keys import add_key
from rich.console import Console
from rich.table import Table
from servers import APP, COMMAND, ENDPOINT, request_of, settings_in, start_server

from benchmarks.machine import SERVER_PACKAGES, describe

POLL_DELAY_MS = 100
SUBMIT_DELAY_MS = 1000
MANY_JOBS = 50
_LUA = Path(__file__).with_name("poll.lua")
_RESULT = Path(__file__).parent / "results" / "load.json"


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk does. Without `delay_ms`, each client asks again at once."""

    name: str
    clients: int
    delay_ms: int
    submits: bool = False
    p99_limit_ms: float | None = None


LOADS = (
    Load("50 clients poll at 10 Hz", 50, POLL_DELAY_MS, p99_limit_ms=50.0),
    Load("200 clients poll at 10 Hz", 200, POLL_DELAY_MS),
    Load("50 clients poll without a pause", 50, 0),
    Load("10 clients submit at 1 Hz", 10, SUBMIT_DELAY_MS, submits=True, p99_limit_ms=100.0),
)


def main(
    seconds: Annotated[int, typer.Option(help="How long each load lasts.")] = 8,
    out: Annotated[Path, typer.Option(help="Where the results go, as JSON.")] = _RESULT,
) -> None:
    """Put each load on a server, print a table, and fail if a limit is not kept."""
    if shutil.which("wrk") is None:
        sys.exit("There is no wrk on this machine: install it with `apt-get install wrk`.")
    with serving() as (url, key, folder):
        ids = submit_jobs(url, key)
        wait_for_pictures(folder)
        results = [measure(load, url, key, ids, folder, seconds) for load in LOADS]
    report = {**describe(SERVER_PACKAGES), "wrk": wrk_version(), "loads": results}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    Console().print(_table(results))
    if missed := [result["name"] for result in results if not result["kept"]]:
        sys.exit(f"Not borne: {', '.join(missed)}.")


@contextmanager
def serving(
    program: Sequence[str | Path] = (COMMAND,),
) -> Iterator[tuple[str, str, Path]]:
    """A server's URL, a key of its table, and its folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = add_key(settings_in(folder))
        server = start_server(
            folder, program=program, COSMOS_AUTH="on", COSMOS_QUEUE_LIMIT="1000000"
        )
        try:
            yield server.http, key, folder
        finally:
            server.end()


def submit_jobs(url: str, key: str) -> list[str]:
    """One job that runs all the while and logs as it does, and others that wait behind it."""
    slow = request_of("sleep 2", num_inference_steps=50)
    with httpx.Client(base_url=url, headers={"authorization": f"Key {key}"}) as client:
        return [
            client.post(f"/queue/{ENDPOINT}", json=slow).raise_for_status().json()["request_id"]
            for _ in range(MANY_JOBS)
        ]


def wait_for_pictures(folder: Path) -> None:
    """Return when every picture is prepared: what that costs is not what is measured here."""
    query = "SELECT count(*) FROM jobs WHERE input_refs IS NULL"
    with closing(sqlite3.connect(folder / "data" / "jobs.sqlite3")) as database:
        while database.execute(query).fetchone()[0]:
            time.sleep(0.1)


def measure(
    load: Load, url: str, key: str, ids: list[str], folder: Path, seconds: int
) -> dict[str, Any]:
    body = folder / "body.json"
    body.write_text(json.dumps(request_of("sleep 2")))
    environment = {
        "FAL_KEY": key,
        "APP": APP,
        "ENDPOINT": ENDPOINT,
        "DELAY_MS": str(load.delay_ms),
        "CLIENTS": str(load.clients),
        "IDS": "" if load.submits else " ".join(ids),
        "BODY": str(body),
    }
    options = ["-t1", f"-c{load.clients}", f"-d{seconds}s", "--timeout", "10s", "-s", str(_LUA)]
    ran = subprocess.run(
        ["wrk", *options, url],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(ran.stdout.rpartition("RESULT ")[2])
    faults = sum(found[kind] for kind in ("socket_errors", "timeouts", "refused", "wrong"))
    in_time = load.p99_limit_ms is None or found["p99_ms"] < load.p99_limit_ms
    return {
        "name": load.name,
        "clients": load.clients,
        **found,
        "requests_per_second": round(found["requests"] / found["seconds"], 1),
        "p99_limit_ms": load.p99_limit_ms,
        "kept": faults == 0 and in_time,
    }


def wrk_version() -> str:
    # It prints its version with its usage, and exits with 1.
    ran = subprocess.run(["wrk", "--version"], capture_output=True, text=True)
    return (ran.stdout or ran.stderr).splitlines()[0].partition(" Copyright")[0]


def _table(results: list[dict[str, Any]]) -> Table:
    table = Table("load", "requests/s", "p50 ms", "p99 ms", "max ms", "faults", "kept")
    for result in results:
        faults = [result[kind] for kind in ("socket_errors", "timeouts", "refused", "wrong")]
        times = (f"{result[name]:.1f}" for name in ("p50_ms", "p99_ms", "max_ms"))
        kept = "yes" if result["kept"] else "no"
        rate = f"{result['requests_per_second']:.0f}"
        table.add_row(result["name"], rate, *times, str(sum(faults)), kept)
    return table


if __name__ == "__main__":
    typer.run(main)
