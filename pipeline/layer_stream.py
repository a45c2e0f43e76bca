"""A language model whose layers wait in host memory and are on the device while they run.

Two of them at a time: while one runs, the next one's weights are copied. The layers compute with
copies of the same bytes, so what comes out is the same.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_BLOCK_BYTES = 2**32
"""torch rounds each block of pinned memory up to a power of two, so layers share large ones."""
_ALIGNMENT = 256
_HOST_RESERVE = 4 * 2**30
"""Host memory that is left to the rest of the machine."""


class LayerStream:
    """Layers of equal shape that run one after the other, in the order that they are given in.

    Args:
        layers: in host memory; pinned, it is copied from while a layer runs.
        device: where they run.
    """

    def __init__(self, layers: Sequence[nn.Module], device: torch.device) -> None:
        self._layers = tuple(layers)
        self._device = device
        self._tensors = [[*layer.parameters(), *layer.buffers()] for layer in self._layers]
        self._waiting = [[tensor.data for tensor in tensors] for tensors in self._tensors]
        self._copying: torch.cuda.Stream | None = None
        self._places: list[list[Tensor]] = []
        self._copied: list[Any] = []
        self._used: list[Any] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have each layer on the device while it runs, for as long as the context lasts."""
        self._places = [
            [torch.empty_like(tensor, device=self._device) for tensor in self._waiting[0]]
            for _ in range(2)
        ]
        if self._device.type == "cuda":
            self._copying = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._copied = [torch.cuda.Event(), torch.cuda.Event()]  # type: ignore[no-untyped-call]
            self._used = [torch.cuda.Event(), torch.cuda.Event()]  # type: ignore[no-untyped-call]
            # The places may have been another tensor's, which is still being read.
            self._copying.wait_stream(torch.cuda.current_stream(self._device))
        hooks = []
        for index, layer in enumerate(self._layers):
            hooks += [
                layer.register_forward_pre_hook(lambda *_, i=index: self._begin(i)),
                layer.register_forward_hook(lambda *_, i=index: self._end(i)),
            ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for index in range(len(self._layers)):
                self._put_back(index)
            if self._copying is not None:
                torch.cuda.current_stream(self._device).wait_stream(self._copying)
            self._places = []

    def _begin(self, index: int) -> None:
        """Give a layer its weights, and begin to copy those of the next."""
        if index == 0:
            self._copy(0)
        if self._copying is not None:
            torch.cuda.current_stream(self._device).wait_event(self._copied[index % 2])
        for tensor, place in zip(self._tensors[index], self._places[index % 2], strict=True):
            tensor.data = place
        if index + 1 < len(self._layers):
            self._copy(index + 1)

    def _end(self, index: int) -> None:
        if self._copying is not None:
            self._used[index % 2].record(torch.cuda.current_stream(self._device))
        self._put_back(index)

    def _copy(self, index: int) -> None:
        """Copy a layer's weights over those of the layer before the last."""
        with torch.cuda.stream(self._copying):
            if self._copying is not None:
                self._copying.wait_event(self._used[index % 2])
            for place, waiting in zip(self._places[index % 2], self._waiting[index], strict=True):
                copy_to(place, waiting)
            if self._copying is not None:
                self._copied[index % 2].record(self._copying)

    def _put_back(self, index: int) -> None:
        for tensor, waiting in zip(self._tensors[index], self._waiting[index], strict=True):
            tensor.data = waiting


def copy_to(place: Tensor, waiting: Tensor) -> None:
    """Copy to the device; from pinned memory, without waiting for it."""
    place.copy_(waiting, non_blocking=True)


def pin(tensors: Sequence[Tensor]) -> str | None:
    """Move tensors of host memory into pinned memory, which a GPU copies from by itself.

    Returns:
        None; or why they stay where they are, in a sentence.
    """
    spare = spare_host_bytes()
    if spare < _BLOCK_BYTES + _HOST_RESERVE:
        return f"Only {spare / 2**30:.1f} GiB of host memory are free."
    block: list[Tensor] = []
    try:
        for tensor in tensors:
            if block and _packed_size([*block, tensor]) > _BLOCK_BYTES:
                _pin_together(block)
                block = []
            block.append(tensor)
        _pin_together(block)
    except RuntimeError as error:
        return f"Host memory cannot be pinned: {str(error).splitlines()[0]}"
    return None


def _pin_together(tensors: Sequence[Tensor]) -> None:
    memory = torch.empty(_packed_size(tensors), dtype=torch.uint8, pin_memory=True)
    start = 0
    for tensor in tensors:
        place = memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        tensor.data = place.copy_(tensor.data)
        start += _aligned(tensor.nbytes)


def _packed_size(tensors: Sequence[Tensor]) -> int:
    return sum(_aligned(tensor.nbytes) for tensor in tensors)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def spare_host_bytes(
    machine: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")
) -> int:
    """The memory that this process may still take: of the machine, or of its container if less."""
    spare = _field(machine, "MemAvailable:") * 1024
    try:
        limit = int((group / "memory.max").read_text())
        return min(spare, limit - _field(group / "memory.stat", "anon"))
    except (OSError, ValueError):  # no container, or one without a limit
        return spare


def _field(file: Path, name: str) -> int:
    lines = (line.split() for line in file.read_text().splitlines())
    return next(int(line[1]) for line in lines if line[0] == name)
