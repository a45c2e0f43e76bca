"""A cluster of Ray whose nodes come and go by Ray's autoscaler, the one that KubeRay runs, too.

Its nodes are processes on this machine, by the provider with which Ray tests its autoscaler.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paths import SUPPORT
from ray_clusters import have_token
from ray_nodes import kill_all_of

from server.workers.ray_cluster import SLOT, import_ray
from server.workers.ray_node import OBJECT_STORE_BYTES

IDLE_S = 3.0
"""How long a node may have nothing to run."""


@contextmanager
def scaled_cluster(folder: Path, *, max_nodes: int) -> Iterator[str]:
    """A head that is being started, for nodes of one slot each; its address."""
    have_token()
    with socket.create_server(("", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"{import_ray().util.get_node_ip_address()}:{port}"
    (folder / "autoscaler.json").write_text(json.dumps(_config(address, max_nodes)))
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *(f"--port={port}", "--num-cpus=0", "--include-dashboard=false"),
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--autoscaling-config={folder / 'autoscaler.json'}",
    ]
    ours = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    environment = {**os.environ, **ours, "PYTHONPATH": str(SUPPORT)}
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield address
    finally:
        kill_all_of(head)


def _config(address: str, max_nodes: int) -> dict[str, object]:
    resources = {"CPU": 0, SLOT: 1, "object_store_memory": OBJECT_STORE_BYTES}
    provider = {
        "type": "fake_multinode",
        "gcs_address": address,
        "use_node_id_as_ip": True,
        "launch_multiple": True,
        # As of KubeRay.
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "foreground_node_launch": True,
        "worker_liveness_check": False,
    }
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    node = {"resources": resources, "node_config": {}, "max_workers": max_nodes}
    commands = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "scaled",
        "max_workers": max_nodes,
        "upscaling_speed": 1000,
        "idle_timeout_minutes": IDLE_S / 60,
        "provider": provider,
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": head, "node": node},
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        **{f"{name}_commands": [] for name in (*commands, "initialization")},
    }
