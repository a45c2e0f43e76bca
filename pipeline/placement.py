"""Which memory the modules of a pipeline are in.

A module that waits in host memory is lent to the device as a copy, which is dropped afterwards:
weights do not change, so nothing is ever copied back, and the bits are those of the host's.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from pipeline.memory_plan import MemoryPlan

HOST = torch.device("cpu")


class Placement:
    """Follows one pipeline's memory plan, which can fall from resident to offload, and not rise.

    On a CPU, whose memory is the host's, both plans are the same.

    Args:
        device: the device that computes.
        modules: all modules of the pipeline, placed by `plan`.
        can_fall: whether a resident pipeline may be offloaded.
    """

    def __init__(
        self,
        device: torch.device,
        modules: Sequence[nn.Module],
        plan: MemoryPlan,
        *,
        can_offload: bool,
    ) -> None:
        self.device = device
        self._modules = tuple(modules)
        self._plan = plan
        self._can_fall = can_offload

    @property
    def plan(self) -> MemoryPlan:
        """The plan that is followed now."""
        return self._plan

    @property
    def can_offload(self) -> bool:
        """Whether there is a plan that takes less of the device, and it may be followed."""
        return self._can_fall and self._plan is MemoryPlan.RESIDENT

    @contextmanager
    def on_device(self, *modules: nn.Module) -> Iterator[None]:
        """Have these modules on the device for as long as the context lasts."""
        with ExitStack() as loans:
            if self._plan is MemoryPlan.OFFLOAD:
                for module in modules:
                    loans.enter_context(_copied_to_device(module, self.device))
            yield

    def offload(self) -> None:
        """Move every module to host memory, and follow that plan from now on.

        Raises:
            RuntimeError: the host has too little memory; what was moved stays there.
        """
        self._plan = MemoryPlan.OFFLOAD
        for module in self._modules:
            module.to(HOST)


@contextmanager
def _copied_to_device(module: nn.Module, device: torch.device) -> Iterator[None]:
    tensors = [*module.parameters(), *module.buffers()]
    kept = [tensor.data for tensor in tensors]
    try:
        for tensor, data in zip(tensors, kept, strict=True):
            tensor.data = copied(data, device)
        yield
    finally:
        for tensor, data in zip(tensors, kept, strict=True):
            tensor.data = data


def copied(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, laid out as it is; itself, if it is there."""
    return tensor.to(device)
