"""A device and a host on a machine that has one memory.

What an offloaded pipeline lends to its device is really copied, so that it can be told from what
waits; and every operation of torch is watched, so that none computes with what waits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.generate import VideoPipeline
from pipeline.memory_plan import MemoryPlan

_VIEWS = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}
"""What compute nothing; `.data` is one of them."""

_Reference: Any = StorageWeakRef  # has no types


def modules_of(pipeline: VideoPipeline) -> dict[str, nn.Module]:
    """The three modules of a pipeline."""
    language_model = pipeline.text._language_model
    assert isinstance(language_model, nn.Module)
    return {
        "language model": language_model,
        "transformer": pipeline.transformer,
        "vae": pipeline.vae,
    }


def tensors_of(*modules: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [t for module in modules for t in (*module.parameters(), *module.buffers())]


def size_of(*modules: nn.Module) -> int:
    """Bytes."""
    return sum(tensor.nbytes for tensor in tensors_of(*modules))


class TwoMemories(TorchDispatchMode):
    """Watches one pipeline."""

    def __init__(self, pipeline: VideoPipeline) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._pipeline = pipeline
        self._weights = {
            tensor.untyped_storage().data_ptr()
            for tensor in tensors_of(*modules_of(pipeline).values())
        }
        self._copied_to_device: list[tuple[Any, int]] = []
        self._made: list[Any] = []
        self._is_lending = False

    def lend(self, tensor: Tensor, device: torch.device) -> Tensor:
        """A copy with the same layout, in place of `pipeline.memory.copied`."""
        assert device == self._pipeline.placement.device
        self._is_lending = True
        copy = tensor.clone()
        self._is_lending = False
        self._copied_to_device.append((_Reference(copy.untyped_storage()), copy.nbytes))
        return copy

    @property
    def lent(self) -> int:
        """The bytes that are lent to the device now."""
        return sum(size for storage, size in self._copied_to_device if not storage.expired())

    @property
    def ever_lent(self) -> int:
        """The bytes that were lent since the beginning."""
        return sum(size for _, size in self._copied_to_device)

    @property
    def held(self) -> int:
        """How many of the tensors that torch computed are still there."""
        return len({storage.cdata for storage in self._made if not storage.expired()})

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        is_offloaded = self._pipeline.placement.plan is MemoryPlan.OFFLOAD
        if is_offloaded and not self._is_lending and func not in _VIEWS:
            waiting = [tensor for tensor in _tensors((args, kwargs)) if self._is_weight(tensor)]
            assert not waiting, f"{func} reads a tensor that waits in host memory"
        result = func(*args, **(kwargs or {}))
        if not self._is_lending:
            made = [tensor for tensor in _tensors(result) if not self._is_weight(tensor)]
            self._made += [_Reference(tensor.untyped_storage()) for tensor in made]
        return result

    def _is_weight(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._weights


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


@contextmanager
def two_memories(pipeline: VideoPipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoMemories]:
    """Watch the pipeline for as long as the context lasts."""
    memories = TwoMemories(pipeline)
    monkeypatch.setattr("pipeline.memory.copied", memories.lend)
    with memories:
        yield memories
