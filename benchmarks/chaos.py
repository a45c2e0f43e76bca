"""Break a server for ten minutes under load, and count what it lost.

    make chaos

A server is started as a user starts it, with the scripted worker of the tests in place of a model
and two slots. Clients submit, cancel, poll, upload and fetch all the while, as the server and its
workers are killed, stopped and ended, its tables are locked and its descriptors used up. What the
clients were told is their own record (`tests/support/client_record.py`), and at the end it is
compared with what a quiet server says. At the same time two other servers are killed at every
failpoint in turn, in rounds.
"""

import itertools
import json
import random
import resource
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import psutil
import typer
from client_record import AskedToTryAgain, Record, Wish
from crash_site import CrashSite, Receiver, receiving, workers_of
from failpoints import POINTS, around
from servers import logging_to

from benchmarks.chaos_report import COUNTS, ENDED_BETWEEN, print_table, write_page
from benchmarks.machine import SERVER_PACKAGES, describe

CLIENTS = 4
JOBS_OF_A_CLIENT = 3
SETTLE_S = 1200.0
"""Enough for a webhook that was refused at its sixth try."""
SITES = 2
"""How many servers are broken at failpoints at the same time: one for each core."""
POINT_S = 120.0
"""How long a failpoint may take to be passed."""
SERVER = {
    # A step of these workers takes no more than 0.2 s; one that is stopped is found in three.
    "COSMOS_PATIENCE": "0.01",
    "COSMOS_QUEUE_LIMIT": "1000",
}
LOCKED_S = (6.0, 9.0)
"""How long the tables are locked. The server waits for five seconds."""
WITHOUT_DESCRIPTORS_S = (2.0, 8.0)
DESCRIPTORS_LEFT = 4
PROMPTS = ("", "sleep 0.01", "sleep 0.05", "sleep 0.2", "bytes 2000000; sleep 0.02")
_ROOT = Path(__file__).parent.parent
_RESULT = _ROOT / "benchmarks" / "results" / "chaos.json"


def main(
    seconds: Annotated[int, typer.Option(help="How long the server is broken at random.")] = 600,
    rounds: Annotated[int, typer.Option(help="How often it is killed at every failpoint.")] = 100,
    seed: Annotated[int, typer.Option(help="Of what is done when.")] = 1,
    out: Annotated[Path, typer.Option(help="Where the results go, as JSON.")] = _RESULT,
    page: Annotated[Path | None, typer.Option(help="The page to put the table into.")] = None,
) -> None:
    """Break it, print a table, and fail if anything was lost."""
    parts: dict[str, dict[str, Any]] = {}
    report = {**describe(SERVER_PACKAGES), "seed": seed, "parts": parts}
    shares = [len(range(number, rounds, SITES)) for number in range(SITES)]
    with ThreadPoolExecutor(SITES + 1) as sites:
        randomly = partial(_run, partial(_at_random, seconds=seconds), seed)
        random_part = sites.submit(randomly, drain_s=1, refusals=5) if seconds else None
        # At the end of a drain without time there is a run to be given back.
        faults = [partial(_at_failpoints, rounds=share) for share in shares if share]
        failpoint_parts = sites.map(partial(_run, drain_s=0), faults, itertools.count(seed + 1))
        if random_part is not None:
            parts["random"] = random_part.result()
            _save(report, out)
        if faults:
            parts["failpoints"] = {**_sum(list(failpoint_parts)), "rounds": rounds}
            _save(report, out)
    print_table(report)
    if page is not None:
        write_page(report, page)
    if any(part["problems"] for part in parts.values()):
        sys.exit(f"Something was lost: {out} says what.")


class Chaos:
    """One server that is broken, and what was done to it."""

    def __init__(self, site: CrashSite, receiver: Receiver, seed: int) -> None:
        self.site = site
        self.receiver = receiver
        self.random = random.Random(seed)
        self.is_over = threading.Event()
        self.faults: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self.asked_to_try_again = 0

    def start(self) -> None:
        """Start the server again, if it has ended."""
        if not self.site.is_alive():
            self.site.wait()
            self.site.start()

    def start_somehow(self) -> None:
        """Start the server, which has ended: as it is, with a failpoint, or with a full stderr."""
        self.site.wait()
        match self.random.choice(("", "armed", "armed", "full")):
            case "armed":
                self.faults["server armed with a failpoint"] += 1
                self.site.start((self.random.choice(POINTS), self.random.randint(1, 5)))
            case "full":
                self.faults["server with a full stderr"] += 1
                self.site.start(program=logging_to("/dev/full"))
            case _:
                self.site.start()

    def end(self, fault: str, number: signal.Signals) -> None:
        """End the server by a signal, unless it has ended by itself."""
        if self.site.is_alive():
            self.faults[fault] += 1
            self.site.end(number)

    def end_all(self, fault: str, number: signal.Signals) -> None:
        """End the server as a service manager does, which signals every process of a service."""
        process = self.site.process
        if process is None or not self.site.is_alive():
            return
        self.faults[fault] += 1
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.send_signal(number)
        self.site.end(number)

    def signal_worker(self, fault: str, *numbers: signal.Signals) -> None:
        """Send these signals, a second apart, to one of the workers, if there is any."""
        workers = workers_of(self.site.folder)
        if not workers:
            return
        worker = self.random.choice(workers)
        self.faults[fault] += 1
        for number in numbers:
            with suppress(psutil.NoSuchProcess):
                worker.send_signal(number)
            time.sleep(len(numbers) - 1)

    def hold_the_tables(self, fault: str) -> None:
        """Hold the write lock of the database for longer than the server waits for it."""
        with closing(sqlite3.connect(self.site.database, isolation_level=None)) as tables:
            try:
                tables.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return  # the server had it all the time
            self.faults[fault] += 1
            time.sleep(self.random.uniform(*LOCKED_S))

    def leave_no_descriptors(self, fault: str) -> None:
        """Let the server open almost nothing for a while."""
        process = self.site.process
        if process is None or not self.site.is_alive():
            return
        with suppress(ProcessLookupError, FileNotFoundError):
            names = {each.name for each in Path(f"/proc/{process.pid}/fd").iterdir()}
            _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
            free = next(n for n in itertools.count() if str(n) not in names)
            few = free + self.random.randint(0, DESCRIPTORS_LEFT)
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (few, hard))
            self.faults[fault] += 1
            time.sleep(self.random.uniform(*WITHOUT_DESCRIPTORS_S))
            # What was started meanwhile has the server's limit.
            for each in (process.pid, *(worker.pid for worker in workers_of(self.site.folder))):
                with suppress(ProcessLookupError):
                    resource.prlimit(each, resource.RLIMIT_NOFILE, (hard, hard))


Faults = Callable[[Chaos], None]
"""Breaks the server for a while, and may leave it running or not."""


def _run(faults: Faults, seed: int, *, drain_s: int, refusals: int = 0) -> dict[str, Any]:
    """Load and faults; then what a quiet server says, and what is left when it has ended."""
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        receiving(refusals) as receiver,
        CrashSite(
            Path(folder), "--devices", "cpu,cpu", COSMOS_DRAIN_SECONDS=str(drain_s), **SERVER
        ) as site,
    ):
        chaos = Chaos(site, receiver, seed)
        site.start()
        threads = [threading.Thread(target=_visit, args=(chaos, n)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            faults(chaos)
        finally:
            chaos.is_over.set()
        for thread in threads:
            thread.join()
        chaos.start()
        chaos.end(ENDED_BETWEEN, signal.SIGTERM)
        site.start()
        with site.client() as client:
            site.settle(client, SETTLE_S)
            findings = site.check(client, receiver, SETTLE_S)
        site.end()
        tables, orphans = site.table_faults(), site.orphans()
    lists = {name: getattr(findings, name) for name in COUNTS if hasattr(findings, name)}
    return {
        "seconds": round(time.monotonic() - started, 1),
        "faults": dict(sorted(chaos.faults.items())),
        **{name: n if isinstance(n, int) else len(n) for name, n in lists.items()},
        "orphans": len(orphans),
        "unexpected_answers": len(chaos.unexpected),
        "asked_to_try_again": chaos.asked_to_try_again,
        "problems": [*findings.problems, *tables, *orphans, *chaos.unexpected],
    }


# What the clients do.


def _visit(chaos: Chaos, number: int) -> None:
    """Be one client until it is over; whatever broke off is tried again."""
    mine: list[Record] = []
    dice = random.Random(number)
    wishes = (_wish(chaos, f"{number}-{n}", dice) for n in itertools.count())
    wish = next(wishes)
    with chaos.site.client() as client:
        while not chaos.is_over.is_set():
            try:
                mine = [each for each in mine if not chaos.site.ledger.look(client, each)]
                if len(mine) < JOBS_OF_A_CLIENT:
                    mine.append(chaos.site.ledger.submit(client, wish))
                    wish = next(wishes)
                elif dice.random() < 0.1:
                    chaos.site.ledger.cancel(client, dice.choice(mine))
            except httpx.TransportError:
                time.sleep(0.05)
            except AskedToTryAgain:
                chaos.asked_to_try_again += 1
            except AssertionError as error:
                chaos.unexpected.append(str(error))
            time.sleep(dice.uniform(0.0, 0.2))


def _wish(chaos: Chaos, key: str, dice: random.Random) -> Wish:
    return Wish(
        key=key,
        prompt=dice.choice(PROMPTS),
        number=dice.randrange(2**32),
        webhook=chaos.receiver.url if dice.random() < 0.3 else None,
        uploaded=dice.random() < 0.3,
    )


# What is done to the server.


def _at_random(chaos: Chaos, *, seconds: float) -> None:
    """One fault after the other, drawn at random, and failpoints at every other start."""
    until = time.monotonic() + seconds
    kinds: Sequence[Callable[[], None]] = (
        lambda: chaos.end("server killed", signal.SIGKILL),
        lambda: chaos.end("server ended", signal.SIGTERM),
        lambda: chaos.end_all("server ended with all it started", signal.SIGTERM),
        lambda: chaos.hold_the_tables("tables locked by another program"),
        lambda: chaos.leave_no_descriptors("server without descriptors"),
        lambda: chaos.signal_worker("worker killed", signal.SIGKILL),
        lambda: chaos.signal_worker("worker stopped for good", signal.SIGSTOP),
        lambda: chaos.signal_worker("worker stopped a while", signal.SIGSTOP, signal.SIGCONT),
    )
    while time.monotonic() < until:
        if not chaos.site.is_alive():
            chaos.start_somehow()
        time.sleep(chaos.random.uniform(0.5, 4.0))
        chaos.random.choice(kinds)()


def _at_failpoints(chaos: Chaos, *, rounds: int) -> None:
    """The server is killed at every failpoint, in an order drawn for each round."""
    chaos.end(ENDED_BETWEEN, signal.SIGTERM)
    for _ in range(rounds):
        for point in chaos.random.sample(POINTS, len(POINTS)):
            _kill_at(chaos, point)


def _kill_at(chaos: Chaos, point: str) -> None:
    is_once = point in _ONCE
    chaos.site.start((point, 1 if is_once else chaos.random.randint(1, 2)))
    deadline = time.monotonic() + POINT_S
    while chaos.site.is_alive():
        if time.monotonic() > deadline:
            chaos.unexpected.append(f"the failpoint {point!r} was not passed")
            chaos.site.end(signal.SIGKILL)
        time.sleep(0.05)
        if point in _AT_ITS_END and chaos.site.ledger.unfinished():
            time.sleep(0.3)
            assert chaos.site.process is not None
            chaos.site.process.send_signal(signal.SIGTERM)
        elif point in _AT_A_DEATH and chaos.site.rows(_RUNNING):
            # An idle worker's death is no job's, and the next one would start ever later.
            chaos.signal_worker("worker killed", signal.SIGKILL)
    chaos.site.wait()
    chaos.faults["server killed at a failpoint"] += 1


_RUNNING = "SELECT 1 FROM jobs WHERE status = 'IN_PROGRESS'"
_AT_ITS_END = around("give back")
_AT_A_DEATH = around("death")
_ONCE = (*_AT_ITS_END, *_AT_A_DEATH, *around("recover"))


# What is reported.


def _sum(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several servers as one."""
    faults: Counter[str] = Counter()
    for part in parts:
        faults.update(part["faults"])
    return {
        "seconds": max(part["seconds"] for part in parts),
        "faults": dict(sorted(faults.items())),
        **{name: sum(part[name] for part in parts) for name in COUNTS},
        "problems": [problem for part in parts for problem in part["problems"]],
    }


def _save(report: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
