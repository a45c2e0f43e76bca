"""Running out of memory: what was lacking, and letting go of what the failed work held."""

import gc
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from pipeline.errors import OutOfMemory
from pipeline.memory_plan import MemoryPlan

_BYTES = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_NEEDED = re.compile(r"[Tt]ried to allocate (\d+(?:\.\d+)?) (bytes|KiB|MiB|GiB)")
_HOST_ALLOCATOR = "DefaultCPUAllocator"
_GIB = 2**30

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryShortage:
    """Memory that could not be had, in bytes; `free` and `total` are known of a GPU only."""

    is_on_device: bool
    needed: int | None = None
    free: int | None = None
    total: int | None = None

    @classmethod
    def from_error(cls, error: Exception, device: torch.device) -> "MemoryShortage | None":
        """What was lacking when this error was raised, just now; None if it was something else."""
        is_on_device = isinstance(error, torch.OutOfMemoryError)
        # The allocator of a CPU has no error of its own.
        is_on_host = isinstance(error, MemoryError) or _HOST_ALLOCATOR in str(error)
        if not (is_on_device or is_on_host):
            return None
        free = total = None
        if is_on_device and device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
        return cls(is_on_device=is_on_device, needed=_needed(error), free=free, total=total)

    @property
    def where(self) -> str:
        """Whose memory it was, as a sentence begins."""
        return "The GPU" if self.is_on_device else "The machine"

    def __str__(self) -> str:
        """`1.50 GiB more were needed, and 0.61 of 23.69 GiB were free`, as far as it is known."""
        needed = (
            "more was needed"
            if self.needed is None
            else f"{_gib(self.needed)} GiB more were needed"
        )
        if self.free is None or self.total is None:
            return needed
        return f"{needed}, and {_gib(self.free)} of {_gib(self.total)} GiB were free"


def run_or_shortage(work: Callable[[], Result], device: torch.device) -> Result | MemoryShortage:
    """What `work` returns; or what it lacked, and then nothing is held of what it had made.

    Raises:
        Exception: whatever else `work` raises.
    """
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        shortage = MemoryShortage.from_error(error, device)
        if shortage is None:
            raise
    # By now the error is gone, and with its traceback the frames that held tensors.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return shortage


def out_of_memory(
    shortage: MemoryShortage, plan: MemoryPlan, num_frames: int | None = None
) -> OutOfMemory:
    """The error for whoever asked for a video of so many frames, or else for the model."""
    wanted = "the model" if num_frames is None else f"{num_frames} frames"
    ways = [] if num_frames is None else ["Ask for fewer frames"]
    though = ""
    if not shortage.is_on_device:
        ways.append("use a machine with more memory")
    elif plan is MemoryPlan.RESIDENT:
        ways.append("let the model wait in host memory: start with --memory auto")
    else:
        though = ", though the model waits in host memory"
        ways.append("use a GPU with more memory, or one that nothing else uses")
    advice = ", or ".join(ways)
    return OutOfMemory(
        f"{shortage.where} has too little memory for {wanted}{though}: {shortage}. "
        f"{advice[0].upper()}{advice[1:]}."
    )


def _needed(error: Exception) -> int | None:
    found = _NEEDED.search(str(error))
    return None if found is None else int(float(found[1]) * _BYTES[found[2]])


def _gib(size: int) -> str:
    return f"{size / _GIB:.2f}"
