"""The pool: the seam between the jobs and the devices that do them.

A pool places, starts, watches, feeds and stops workers. Which job runs next, and what becomes of
one that failed, is the dispatcher's business. `server.local_pool` is the pool of this machine.
"""

import shutil
import subprocess
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from pipeline.memory_plan import MemoryPlan
from server.events import Loading, RunEvent, WorkOrder

CPU = "cpu"

KILLED = "The worker was stopped by the server."
CLOSED = "The server is stopping."

_NVIDIA_SMI_TIMEOUT_S = 10.0


class SlotState(StrEnum):
    """What a slot is doing."""

    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotView:
    """One slot as it is now.

    `device` is what was asked for (`cpu`, `cuda:0`); `device_name`, `checkpoint_digest` and
    `attention` are what the worker reported when it had loaded, and None before. So is `memory`,
    which it reports after each run, too. `memory_shortages` counts how often runs on this slot ran
    out of memory. `down_reason` is the sentence about the last time that the slot went down, and
    stays while a new worker loads. `is_unstable` is true where workers keep ending: see
    `server.deaths`.
    """

    name: str
    device: str
    state: SlotState
    loading: Loading | None = None
    device_name: str | None = None
    checkpoint_digest: str | None = None
    attention: str | None = None
    memory: MemoryPlan | None = None
    memory_shortages: int = 0
    down_reason: str | None = None
    is_unstable: bool = False

    @property
    def can_work(self) -> bool:
        """Whether it has the model, be it busy or not, and is likely to keep it."""
        return self.state in (SlotState.IDLE, SlotState.BUSY) and not self.is_unstable


@dataclass(frozen=True, slots=True)
class SlotLoading:
    """The slot's worker is loading; `loading` says how far it is."""

    slot: str
    loading: Loading


@dataclass(frozen=True, slots=True)
class SlotUp:
    """The slot has loaded this checkpoint and is free."""

    slot: str
    checkpoint_digest: str


@dataclass(frozen=True, slots=True)
class SlotIdle:
    """The slot has let go of its last run and is free."""

    slot: str


@dataclass(frozen=True, slots=True)
class SlotDown:
    """The slot's worker has ended, for this reason; a new one will be started."""

    slot: str
    reason: str


SlotChange = SlotLoading | SlotUp | SlotIdle | SlotDown


class WorkerDied(Exception):
    """The worker ended in the middle of a run; the message is a sentence that says how."""


class DeviceError(ValueError):
    """`--devices` cannot be had; the message is for whoever typed it."""


class SlotUnavailable(Exception):
    """The slot is not idle, so it was not given the order. The job is none the worse for it."""


class Pool(Protocol):
    """Slots that run work orders. It is used from one event loop."""

    async def start(self) -> None:
        """Start a worker for every slot; returns while they load."""

    async def close(self) -> None:
        """End every worker; runs that are still going raise `WorkerDied`."""

    def slots(self) -> Sequence[SlotView]:
        """Every slot as it is now, in a fixed order."""

    def changes(self) -> AsyncGenerator[SlotChange, None]:
        """Every change from this call on; ends when the pool is closed."""

    def run(self, slot: str, order: WorkOrder) -> AsyncGenerator[RunEvent, None]:
        """Start the order now, and iterate over its events.

        The last event is Done, CancelledEvent or Failed; the slot is free only with its own
        `SlotIdle`. Who reads slowly slows the worker down. Leaving the iterator early cancels the
        run.

        Raises:
            SlotUnavailable: at once, when the slot is not idle.
            WorkerDied: while iterating, when the worker ends before the run does.
        """

    async def cancel(self, slot: str, job_id: str, attempt: int) -> None:
        """Ask the worker to stop this run; does nothing if it is another one that runs."""

    async def kill(self, slot: str, reason: str = KILLED) -> None:
        """Kill the slot's worker at once; `reason` is what `WorkerDied` will say."""


def devices_from(text: str, cuda_visible_devices: str | None) -> list[str]:
    """The devices that `--devices` means: `cpu`, or `cuda:` and what CUDA calls the device.

    `text` is `all`, or a list such as `0,2` or `cpu`. The numbers count the GPUs that CUDA shows
    us, as everywhere in CUDA: those of `cuda_visible_devices` if it is set, otherwise all that the
    machine has. Empty text means all of them, or one CPU worker where there is none.

    Raises:
        DeviceError: a GPU is asked for that is not there, or the text has another form.
    """
    if text.strip() in ("", "all"):
        visible = _visible_gpus(cuda_visible_devices)
        if not visible and text:
            raise DeviceError(_no_gpu("--devices all asks for every GPU", cuda_visible_devices))
        return [f"cuda:{gpu}" for gpu in visible] or [CPU]
    devices = [_device(item.strip(), text, cuda_visible_devices) for item in text.split(",")]
    gpus = [device for device in devices if device != CPU]
    if len(set(gpus)) < len(gpus):
        raise DeviceError(f"--devices {text} names a GPU twice; each can serve one worker.")
    return devices


def _device(item: str, text: str, cuda_visible_devices: str | None) -> str:
    if item == CPU:
        return CPU
    if not (item.isascii() and item.isdigit()):
        raise DeviceError(
            f"--devices {text}: {item!r} is no device. Give all, cpu, or numbers such as 0,2."
        )
    visible = _visible_gpus(cuda_visible_devices)
    if not visible:
        raise DeviceError(_no_gpu(f"--devices {text} asks for GPU {item}", cuda_visible_devices))
    if int(item) >= len(visible):
        raise DeviceError(
            f"--devices {text} asks for GPU {item}, but the GPUs here are 0 to {len(visible) - 1}."
        )
    return f"cuda:{visible[int(item)]}"


def _no_gpu(asked: str, cuda_visible_devices: str | None) -> str:
    if cuda_visible_devices is not None:
        return f"{asked}, but CUDA_VISIBLE_DEVICES={cuda_visible_devices!r} shows none."
    return f"{asked}, but no NVIDIA GPU was found here. Use --devices cpu to run without one."


def _visible_gpus(cuda_visible_devices: str | None) -> list[str]:
    """What CUDA calls the GPUs that it would show to a process, in its order."""
    if cuda_visible_devices is None:
        return [str(index) for index in range(_count_gpus())]
    visible: list[str] = []
    for item in cuda_visible_devices.split(","):
        if not item.strip() or item.strip().startswith("-"):
            break  # as CUDA does: what follows an invalid entry is hidden
        visible.append(item.strip())
    return visible


def _count_gpus(driver: Path = Path("/proc/driver/nvidia/gpus")) -> int:
    """How many GPUs the machine has, asked without CUDA: by nvidia-smi, or else the driver."""
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return len(list(driver.iterdir())) if driver.is_dir() else 0
    try:
        listed = subprocess.run(
            [nvidia_smi, "-L"], capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"nvidia-smi -L did not answer within {_NVIDIA_SMI_TIMEOUT_S:g} s, so the driver is in "
            "trouble. Use --devices cpu to run without a GPU."
        ) from error
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
