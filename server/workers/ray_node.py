"""Ray's own processes on one machine: how they are started, and what they are told of it."""

import json
import os
import socket
import sys
from collections.abc import Sequence

from server.config.errors import SettingsError
from server.config.node import RAY_ENVIRONMENT
from server.config.settings import Settings
from server.workers.devices import CPU, devices_from, num_members
from server.workers.ray_cluster import SLOT, import_ray
from weights.checkpoints import folders_in

OBJECT_STORE_BYTES = 256 * 2**20
"""Memory for the messages that are on their way: a few chunks of 1 MiB for each slot."""


def start_command(
    settings: Settings, where: Sequence[str], *, ip: str | None = None, name: str | None = None
) -> list[str]:
    """The command that starts this machine's node, and ends with it.

    `where` are Ray's own options for a head, or for the address of one.

    Raises:
        SettingsError: Ray is not installed, or the slots would have different numbers of GPUs.
        DeviceError: a GPU is asked for that is not there.
    """
    import_ray()
    devices = _devices(settings)
    gpus = [0 if device == CPU else num_members(device) for device in devices]
    if len(set(gpus)) > 1 or any(device.startswith(f"{CPU}+") for device in devices):
        raise SettingsError(
            f"--devices {settings.devices}: the slots of a node have the same number of GPUs each, "
            "or are all on the CPU alone."
        )
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--block"),
        "--disable-usage-stats",
        f"--num-gpus={sum(gpus)}",
        f"--resources={json.dumps({SLOT: len(devices)} if devices else {})}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--node-name={name or socket.gethostname()}",
        *([f"--node-ip-address={ip}"] if ip else []),
    ]


def node_environment(settings: Settings) -> dict[str, str]:
    """The environment of the node's processes, and so of its workers."""
    own = {
        # Ray's processes have another working folder.
        "COSMOS_WEIGHTS": ",".join(
            str(folder.absolute()) for folder in folders_in(str(settings.weights))
        ),
        "COSMOS_DATA": str(settings.data.absolute()),
    }
    gpus = [device.partition(":")[2] for each in _devices(settings) for device in each.split("+")]
    if any(gpus):
        own["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return {**os.environ, **RAY_ENVIRONMENT, **own}


def _devices(settings: Settings) -> list[str]:
    """The devices of the slots; none where there is no GPU, unless the CPU is asked for."""
    devices = devices_from(settings.devices, settings.cuda_visible_devices)
    return [] if devices == [CPU] and not settings.devices else devices
