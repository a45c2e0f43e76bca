"""A device and a host on a machine that has one memory.

What a pipeline lends to its device is really copied, so that it can be told from what waits; and
every operation of torch is watched, so that none computes with what waits.
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

_VIEWS = {
    torch.ops.aten.detach.default,
    torch.ops.aten.alias.default,
    torch.ops.aten.empty_like.default,
    torch.ops.aten._has_compatible_shallow_copy_type.default,
}
"""What reads no number; `.data` is one of them."""

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
        modules = modules_of(pipeline)
        self._weights = _addresses(*modules.values())
        # Prompts are looked up where the embedding waits.
        embedding = _addresses(modules["language model"].get_submodule("embed_tokens"))
        self._waiting = {
            MemoryPlan.RESIDENT: set[int](),
            MemoryPlan.OFFLOAD: _addresses(modules["language model"]) - embedding,
            MemoryPlan.STREAM: self._weights - embedding,
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
        self._note(copy)
        return copy

    def lend_in(self, place: Tensor, waiting: Tensor) -> None:
        """A copy over what was lent before, in place of `pipeline.layer_stream.copy_to`."""
        self._is_lending = True
        place.copy_(waiting)
        self._is_lending = False
        self._note(place)

    def _note(self, copy: Tensor) -> None:
        self._copied_to_device.append((_Reference(copy.untyped_storage()), copy.nbytes))

    @property
    def lent(self) -> int:
        """The bytes that are lent to the device now."""
        there = {s.cdata: size for s, size in self._copied_to_device if not s.expired()}
        return sum(there.values())

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
        waiting = self._waiting[self._pipeline.placement.plan]
        if waiting and not self._is_lending and func not in _VIEWS:
            read = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
            assert not read & waiting, f"{func} reads a tensor that waits in host memory"
        result = func(*args, **(kwargs or {}))
        if not self._is_lending:
            made = [tensor for tensor in _tensors(result) if not self._is_weight(tensor)]
            self._made += [_Reference(tensor.untyped_storage()) for tensor in made]
        return result

    def _is_weight(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._weights


def _addresses(*modules: nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors_of(*modules)}


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


@contextmanager
def two_memories(pipeline: VideoPipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoMemories]:
    """Watch the pipeline for as long as the context lasts."""
    memories = TwoMemories(pipeline)
    monkeypatch.setattr("pipeline.memory.copied", memories.lend)
    monkeypatch.setattr("pipeline.layer_stream.copy_to", memories.lend_in)
    with memories:
        yield memories
