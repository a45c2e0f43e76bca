"""Servers that are broken under load, and what they then have to say for themselves.

Clients submit, cancel, poll, upload and fetch all the while. What they were told is their own
record (`tests/support/client_record.py`), and at the end it is compared with what quiet servers
say, the tables with the files, and both with what is left of processes.
"""

import itertools
import json
import random
import resource
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from client_record import AskedToTryAgain, Record, Wish
from crash_site import CrashSite, Receiver, client_of, workers_of
from failpoints import POINTS
from servers import logging_to

from benchmarks.chaos_report import COUNTS, ENDED_BETWEEN
from benchmarks.machine import describe

CLIENTS = 4
JOBS_OF_A_CLIENT = 3
SETTLE_S = 1200.0
"""Enough for a webhook that was refused at its sixth try."""
SERVER = {
    # A step of these workers takes no more than 0.2 s; one that is stopped is found in three.
    "COSMOS_PATIENCE": "0.01",
    "COSMOS_QUEUE_LIMIT": "1000",
}
LOCKED_S = (6.0, 9.0)
"""How long the tables are locked. The server waits for five seconds."""
WITHOUT_DESCRIPTORS_S = (2.0, 8.0)
DESCRIPTORS_LEFT = 4
PROMPTS = (
    *("", "sleep 0.01", "sleep 0.05", "sleep 0.2"),
    *("bytes 2000000; sleep 0.02", "bytes 6000000; sleep 0.02"),
)
"""The last one's file is sent to a bucket in parts."""


class Chaos:
    """Servers of one database that are broken, and what was done to them.

    `accepting` are those of them that take requests.
    """

    def __init__(
        self,
        sites: Sequence[CrashSite],
        receiver: Receiver,
        seed: int,
        *,
        accepting: Sequence[CrashSite] | None = None,
    ) -> None:
        self.sites = sites
        self.receiver = receiver
        self.random = random.Random(seed)
        self.is_over = threading.Event()
        self.faults: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self.asked_to_try_again = 0
        self._accepting = accepting or sites

    @property
    def site(self) -> CrashSite:
        """The one server, or the first."""
        return self.sites[0]

    def client(self) -> httpx.Client:
        return client_of(*self._accepting)

    def start(self, site: CrashSite) -> None:
        """Start a server again, if it has ended."""
        if not site.is_alive():
            if site.process is not None:
                site.wait()
            site.start()

    def start_somehow(self, site: CrashSite) -> None:
        """Start a server, which has ended: as it is, with a failpoint, or with a full stderr."""
        site.wait()
        match self.random.choice(("", "armed", "armed", "full")):
            case "armed":
                self.faults["server armed with a failpoint"] += 1
                site.start((self.random.choice(POINTS), self.random.randint(1, 5)))
            case "full":
                self.faults["server with a full stderr"] += 1
                site.start(program=logging_to("/dev/full"))
            case _:
                site.start()

    def end(self, site: CrashSite, fault: str, number: signal.Signals) -> None:
        """End a server by a signal, unless it has ended by itself."""
        if site.is_alive():
            self.faults[fault] += 1
            site.end(number)

    def end_all(self, site: CrashSite, fault: str, number: signal.Signals) -> None:
        """End a server as a service manager does, which signals every process of a service."""
        process = site.process
        if process is None or not site.is_alive():
            return
        self.faults[fault] += 1
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.send_signal(number)
        site.end(number)

    def stop_a_while(self, site: CrashSite, fault: str, seconds: float) -> None:
        """Stop a server, and let it go on."""
        process = site.process
        if process is None or not site.is_alive():
            return
        self.faults[fault] += 1
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    def signal_worker(self, folder: Path, fault: str, *numbers: signal.Signals) -> None:
        """Send these signals, a second apart, to one of the workers of a folder, if it has any."""
        workers = workers_of(folder)
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

    def leave_no_descriptors(self, site: CrashSite, fault: str) -> None:
        """Let a server open almost nothing for a while."""
        process = site.process
        if process is None or not site.is_alive():
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
            for each in (process.pid, *(worker.pid for worker in workers_of(site.folder))):
                with suppress(ProcessLookupError):
                    resource.prlimit(each, resource.RLIMIT_NOFILE, (hard, hard))


Faults = Callable[[Chaos], None]
"""Breaks the servers for a while, and may leave them running or not."""


def run(chaos: Chaos, faults: Faults) -> dict[str, Any]:
    """Load and faults; then what quiet servers say, and what is left when they have ended."""
    started = time.monotonic()
    for site in chaos.sites:
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
    return counted(chaos, time.monotonic() - started)


def counted(chaos: Chaos, seconds: float) -> dict[str, Any]:
    """What quiet servers say after so many seconds of faults, and what is left at their end."""
    started = time.monotonic()
    for site in chaos.sites:
        chaos.start(site)
        chaos.end(site, ENDED_BETWEEN, signal.SIGTERM)
        site.start()
    with chaos.client() as client:
        chaos.site.settle(client, SETTLE_S)
        findings = chaos.site.check(client, chaos.receiver, SETTLE_S)
    for site in chaos.sites:
        site.end()
    tables = chaos.site.table_faults()
    orphans = sorted({orphan for site in chaos.sites for orphan in site.orphans()})
    lists = {name: getattr(findings, name) for name in COUNTS if hasattr(findings, name)}
    return {
        "seconds": round(seconds + time.monotonic() - started, 1),
        "faults": dict(sorted(chaos.faults.items())),
        **{name: n if isinstance(n, int) else len(n) for name, n in lists.items()},
        "orphans": len(orphans),
        "unexpected_answers": len(chaos.unexpected),
        "asked_to_try_again": chaos.asked_to_try_again,
        "problems": [*findings.problems, *tables, *orphans, *chaos.unexpected],
    }


def sum_of(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several runs at the same time as one."""
    faults: Counter[str] = Counter()
    for part in parts:
        faults.update(part["faults"])
    return {
        "seconds": max(part["seconds"] for part in parts),
        "faults": dict(sorted(faults.items())),
        **{name: sum(part[name] for part in parts) for name in COUNTS},
        "problems": [problem for part in parts for problem in part["problems"]],
    }


def begin(out: Path, packages: Sequence[str]) -> dict[str, Any]:
    """A report for this file, with the parts that earlier calls left in it.

    Raises:
        SystemExit: they are of another machine, or of other versions.
    """
    report: dict[str, Any] = {**describe(packages), "parts": {}}
    if out.exists():
        earlier = json.loads(out.read_text())
        if _where(earlier) != _where(report):
            sys.exit(f"{out} is of another machine or of other versions: name another with --out.")
        report["parts"] = earlier["parts"]
    return report


def _where(report: dict[str, Any]) -> object:
    return report["machine"] | {"load_average": 0}, report["versions"]


def save(report: dict[str, Any], name: str, part: dict[str, Any], out: Path) -> None:
    """Put a part into the report, with the commit that it is of, and write the report."""
    report["parts"][name] = {**part, "commit": report["commit"]}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")


# What the clients do.


def _visit(chaos: Chaos, number: int) -> None:
    """Be one client until it is over; whatever broke off is tried again."""
    mine: list[Record] = []
    dice = random.Random(number)
    wishes = (_wish(chaos, f"{number}-{n}", dice) for n in itertools.count())
    wish = next(wishes)
    ledger = chaos.site.ledger
    with chaos.client() as client:
        while not chaos.is_over.is_set():
            try:
                mine = [each for each in mine if not ledger.look(client, each)]
                if len(mine) < JOBS_OF_A_CLIENT:
                    mine.append(ledger.submit(client, wish))
                    wish = next(wishes)
                elif dice.random() < 0.1:
                    ledger.cancel(client, dice.choice(mine))
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
