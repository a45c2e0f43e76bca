"""A cluster of Ray on this machine, whose nodes are as those of several machines."""

import atexit
import os
import secrets
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from paths import SUPPORT
from workers import DIGEST

from server.workers.loop import WorkerOptions
from server.workers.ray_cluster import SLOT, import_ray
from server.workers.ray_node import OBJECT_STORE_BYTES
from server.workers.ray_pool import RayPool
from server.workers.ray_scaling import Scaling


def have_token() -> None:
    """Make the token of this run's clusters, which Ray reads once."""
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


class NodesOfRay:
    """A head that has no slots, and nodes that have."""

    def __init__(self) -> None:
        have_token()
        # What is no longer read of a file that is still open is Ray's.
        warnings.filterwarnings("ignore", category=ResourceWarning)
        import_ray()
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": OBJECT_STORE_BYTES}
        self._cluster: Any = _again(Cluster, initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address
        self.nodes: list[Any] = []
        atexit.register(self._cluster.shutdown)

    def add(self, name: str, num_slots: int = 1, num_gpus: int = 0, **environment: str) -> Any:
        """Start a node."""
        node = _again(
            self._cluster.add_node,
            node_name=name,
            object_store_memory=OBJECT_STORE_BYTES,
            num_cpus=0,
            num_gpus=num_gpus,
            resources={SLOT: num_slots},
            env_vars={"PYTHONPATH": str(SUPPORT), **environment},
        )
        self.nodes.append(node)
        return node

    def remove(self, node: Any, *, in_order: bool = False) -> None:
        """Kill a node, or have it end, and all that it runs, and wait until the head knows."""
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=in_order)
        self._cluster.wait_for_nodes(timeout=120)

    def clear(self) -> None:
        """Remove every node."""
        for node in list(self.nodes):
            self.remove(node)


def _again(start: Callable[..., Any], **options: Any) -> Any:
    """Start a part of the cluster, which fails where that takes longer than half a minute."""
    for _ in range(3):
        try:
            return start(**options)
        except Exception as error:
            failure = error
    raise failure


@cache
def nodes_of_ray() -> NodesOfRay:
    """The cluster of this run."""
    return NodesOfRay()


def pool_on_ray(
    worker: str = "workers:ScriptedWorker",
    weights: Path = Path(),
    *,
    digest: str = DIGEST,
    leads: Callable[[], bool] = lambda: True,
    scaling: Scaling | None = None,
    address: str | None = None,
) -> RayPool:
    """A pool of the nodes that a cluster has, this run's or that at an address."""
    pool = RayPool(
        worker,
        WorkerOptions(weights=str(weights)),
        digest=lambda: digest,
        address=address or nodes_of_ray().address,
        leads=leads,
        scaling=scaling,
        first_backoff_s=0.01,
    )
    pool._ending_grace_s = 0.5
    return pool


def ray_pool(
    worker: str = "workers:ScriptedWorker", weights: Path = Path(), num_slots: int = 1
) -> RayPool:
    """A pool of so many slots."""
    cluster = nodes_of_ray()
    while len(cluster.nodes) < num_slots:
        cluster.add(f"node{len(cluster.nodes)}")
    while len(cluster.nodes) > num_slots:
        cluster.remove(cluster.nodes[-1])
    return pool_on_ray(worker, weights)
