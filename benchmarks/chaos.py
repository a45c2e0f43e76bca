"""Break a server for ten minutes under load, and count what it lost.

    make chaos

A server is started as a user starts it, with the scripted worker of the tests in place of a model
and two slots. Clients submit, cancel, poll, upload and fetch all the while, as the server and its
workers are killed, stopped and ended, its tables are locked and its descriptors used up. What the
clients were told is their own record (`tests/support/client_record.py`), and at the end it is
compared with what a quiet server says. At the same time two other servers are killed at every
failpoint in turn, in rounds. A part that is to be done no times (`--rounds 0`) stays in the file as
an earlier call left it.
"""

import itertools
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from crash_site import CrashSite, receiving
from failpoints import POINTS, around

from benchmarks.chaos_report import ENDED_BETWEEN, ONE_SERVER, print_table, write_page
from benchmarks.chaos_run import SERVER, Chaos, Faults, begin, run, save, sum_of
from benchmarks.machine import SERVER_PACKAGES

SITES = 2
"""How many servers are broken at failpoints at the same time: one for each core."""
POINT_S = 120.0
"""How long a failpoint may take to be passed."""


def main(
    seconds: Annotated[int, typer.Option(help="How long the server is broken at random.")] = 600,
    rounds: Annotated[int, typer.Option(help="How often it is killed at every failpoint.")] = 100,
    seed: Annotated[int, typer.Option(help="Of what is done when.")] = 1,
    out: Annotated[Path, typer.Option(help="Where the results go, as JSON.")] = ONE_SERVER.result,
    page: Annotated[Path | None, typer.Option(help="The page to put the table into.")] = None,
) -> None:
    """Break it, print a table, and fail if anything was lost."""
    report = begin(out, SERVER_PACKAGES)
    shares = [len(range(number, rounds, SITES)) for number in range(SITES)]
    with ThreadPoolExecutor(SITES + 1) as sites:
        randomly = partial(_run, partial(_at_random, seconds=seconds), seed)
        random_part = sites.submit(randomly, drain_s=1, refusals=5) if seconds else None
        # At the end of a drain without time there is a run to be given back.
        faults = [partial(_at_failpoints, rounds=share) for share in shares if share]
        failpoint_parts = sites.map(partial(_run, drain_s=0), faults, itertools.count(seed + 1))
        if random_part is not None:
            save(report, "random", {**random_part.result(), "seed": seed}, out)
        if faults:
            part = {**sum_of(list(failpoint_parts)), "rounds": rounds, "seed": seed}
            save(report, "failpoints", part, out)
    print_table(report, ONE_SERVER)
    if page is not None:
        write_page(report, page, ONE_SERVER)
    if any(part["problems"] for part in report["parts"].values()):
        sys.exit(f"Something was lost: {out} says what.")


def _run(faults: Faults, seed: int, *, drain_s: int, refusals: int = 0) -> dict[str, Any]:
    """What became of a server on a folder of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        receiving(refusals) as receiver,
        CrashSite(
            Path(folder), "--devices", "cpu,cpu", COSMOS_DRAIN_SECONDS=str(drain_s), **SERVER
        ) as site,
    ):
        return run(Chaos([site], receiver, seed), faults)


# What is done to the server.


def _at_random(chaos: Chaos, *, seconds: float) -> None:
    """One fault after the other, drawn at random, and failpoints at every other start."""
    until, site = time.monotonic() + seconds, chaos.site
    on_worker = partial(chaos.signal_worker, site.folder)
    kinds: Sequence[Callable[[], None]] = (
        lambda: chaos.end(site, "server killed", signal.SIGKILL),
        lambda: chaos.end(site, "server ended", signal.SIGTERM),
        lambda: chaos.end_all(site, "server ended with all it started", signal.SIGTERM),
        lambda: chaos.hold_the_tables("tables locked by another program"),
        lambda: chaos.leave_no_descriptors(site, "server without descriptors"),
        lambda: on_worker("worker killed", signal.SIGKILL),
        lambda: on_worker("worker stopped for good", signal.SIGSTOP),
        lambda: on_worker("worker stopped a while", signal.SIGSTOP, signal.SIGCONT),
    )
    while time.monotonic() < until:
        if not site.is_alive():
            chaos.start_somehow(site)
        time.sleep(chaos.random.uniform(0.5, 4.0))
        chaos.random.choice(kinds)()


def _at_failpoints(chaos: Chaos, *, rounds: int) -> None:
    """The server is killed at every failpoint, in an order drawn for each round."""
    chaos.end(chaos.site, ENDED_BETWEEN, signal.SIGTERM)
    for _ in range(rounds):
        for point in chaos.random.sample(POINTS, len(POINTS)):
            _kill_at(chaos, point)


def _kill_at(chaos: Chaos, point: str) -> None:
    site, is_once = chaos.site, point in _ONCE
    site.start((point, 1 if is_once else chaos.random.randint(1, 2)))
    deadline = time.monotonic() + POINT_S
    while site.is_alive():
        if time.monotonic() > deadline:
            chaos.unexpected.append(f"the failpoint {point!r} was not passed")
            site.end(signal.SIGKILL)
        time.sleep(0.05)
        if point in _AT_ITS_END and site.ledger.unfinished():
            time.sleep(0.3)
            assert site.process is not None
            site.process.send_signal(signal.SIGTERM)
        elif point in _AT_A_DEATH and site.rows(_RUNNING):
            # An idle worker's death is no job's, and the next one would start ever later.
            chaos.signal_worker(site.folder, "worker killed", signal.SIGKILL)
    site.wait()
    chaos.faults["server killed at a failpoint"] += 1


_RUNNING = "SELECT 1 FROM jobs WHERE status = 'IN_PROGRESS'"
_AT_ITS_END = around("give back")
_AT_A_DEATH = around("death")
_ONCE = (*_AT_ITS_END, *_AT_A_DEATH, *around("recover"))


if __name__ == "__main__":
    typer.run(main)
