"""Servers whose jobs run on a cluster of Ray: what becomes of them as its parts are killed."""

import secrets
import socket
import time
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from ray_clusters import nodes_of_ray, ray_pool
from ray_nodes import RayNode
from servers import RunningServer, started
from shared_queue import result, server, submit, until

from server.workers.ray_cluster import import_ray

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ON_RAY = {"COSMOS_POOL": "ray", "COSMOS_WORKER": "workers:WithDigest"}


@pytest.fixture
def on_ray() -> dict[str, str]:
    """The settings of a server on the cluster of this run, which has one slot."""
    ray_pool()
    return ON_RAY | {"COSMOS_RAY_ADDRESS": nodes_of_ray().address}


def slots(of: RunningServer) -> list[str]:
    return [slot["state"] for slot in httpx.get(f"{of.http}/health/ready").json()["slots"]]


def test_a_standby_takes_the_place_of_the_dispatcher_that_is_killed(
    tmp_path: Path, postgres_database: SecretStr, on_ray: dict[str, str]
) -> None:
    files = tmp_path / "api" / "data" / "files"
    dispatch = on_ray | {"COSMOS_ROLE": "dispatch"}
    with (
        server(tmp_path / "api", postgres_database, COSMOS_ROLE="api") as api,
        server(tmp_path / "leader", postgres_database, files, **dispatch) as leader,
    ):
        until(api, hanging := submit(api, "hang once"), "IN_PROGRESS")
        with server(tmp_path / "standby", postgres_database, files, **dispatch) as standby:
            assert (len(slots(leader)), slots(standby)) == (1, [])
            leader.process.kill()
            # Its worker, which hangs, has ended with it: there is no other slot.
            assert result(api, hanging).status_code == 200
            assert len(slots(standby)) == 1


def test_jobs_outlive_the_head_and_run_on_the_next_one(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"{import_ray().util.get_node_ip_address()}:{port}"
    head = ["--head", "--port", str(port), "--name", "head"]
    environment = {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    settings = ON_RAY | environment | {"COSMOS_RAY_ADDRESS": address}
    # The next one has no slot of its own.
    joins = [f"--address={address}", "--name=node"]
    first = RayNode(tmp_path / "head", *head, **environment)
    with first, started(tmp_path / "server", **settings) as running:
        until(running, job := submit(running, "hang once"), "IN_PROGRESS")
        first.kill()
        while slots(running):
            time.sleep(0.1)
        with (
            RayNode(tmp_path / "head", *head, devices="", **environment),
            RayNode(tmp_path / "node", *joins, **environment),
        ):
            assert result(running, job).status_code == 200
            # No longer than Ray lets a process live that waits for a head which is lost.
            time.sleep(75)
            assert result(running, submit(running)).status_code == 200
            assert running.end() == 0
