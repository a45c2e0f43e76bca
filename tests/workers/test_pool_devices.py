"""What `--devices` means on machines with and without GPUs."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from server.workers.devices import DeviceError, devices_from


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Give the machine so many GPUs, by the nvidia-smi that it finds."""

    def install(count: int) -> None:
        listed = "".join(f"echo 'GPU {i}: NVIDIA H200 (UUID: GPU-{i})'\n" for i in range(count))
        listed += "echo '  MIG 1g.18gb Device 0: (UUID: MIG-0)'\n" if count else "exit 9\n"
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{listed}")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return install


@pytest.mark.parametrize(
    ("text", "num_gpus", "visible", "devices"),
    [
        ("", 0, None, ["cpu"]),
        ("", 2, None, ["cuda:0", "cuda:1"]),
        ("", 2, "1", ["cuda:1"]),
        ("", 2, "", ["cpu"]),
        ("", 2, "-1", ["cpu"]),
        ("", 4, "2,-1,3", ["cuda:2"]),
        ("", 0, "GPU-8f2a, MIG-77", ["cuda:GPU-8f2a", "cuda:MIG-77"]),
        ("cpu", 2, None, ["cpu"]),
        ("cpu,cpu", 0, None, ["cpu", "cpu"]),
        ("all", 2, None, ["cuda:0", "cuda:1"]),
        ("1", 2, None, ["cuda:1"]),
        ("2,0", 3, None, ["cuda:2", "cuda:0"]),
        ("0", 8, "5,6", ["cuda:5"]),
        ("cpu+cpu", 0, None, ["cpu+cpu"]),
        ("0+1,3 + 2", 4, None, ["cuda:0+cuda:1", "cuda:3+cuda:2"]),
        ("0+1,2", 8, "5,6,7", ["cuda:5+cuda:6", "cuda:7"]),
    ],
)
def test_devices_are_those_that_cuda_would_show(
    text: str,
    num_gpus: int,
    visible: str | None,
    devices: list[str],
    gpus: Callable[[int], None],
) -> None:
    gpus(num_gpus)
    assert devices_from(text, visible) == devices


@pytest.mark.parametrize(
    ("text", "num_gpus", "visible", "message"),
    [
        ("all", 0, None, "A container is given them by `--gpus all`; use --devices cpu"),
        ("0", 0, None, "asks for GPU 0, but no NVIDIA GPU was found"),
        ("0", 2, "", "CUDA_VISIBLE_DEVICES='' shows none"),
        ("2", 2, None, "asks for GPU 2, but the GPUs here are 0 to 1"),
        ("0,0", 2, None, "names a GPU twice"),
        ("0+1,1+2", 3, None, "names a GPU twice"),
        ("0+cpu", 2, None, "has the CPU and a GPU work on one video"),
        ("0+1+2", 3, None, "has 3 devices work on one video. Give an even number"),
        ("0+2", 2, None, "asks for GPU 2, but the GPUs here are 0 to 1"),
        ("all+0", 2, None, "'all' is no device"),
        ("0+", 2, None, "'' is no device"),
        ("0,", 2, None, "'' is no device"),
        ("gpu", 2, None, "'gpu' is no device"),
        ("-1", 2, None, "'-1' is no device"),
        ("\u0661", 2, None, "is no device"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    text: str, num_gpus: int, visible: str | None, message: str, gpus: Callable[[int], None]
) -> None:
    gpus(num_gpus)
    with pytest.raises(DeviceError, match=re.escape(message)):
        devices_from(text, visible)
