"""The bytes of all tensors that are alive at once, followed operation by operation."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
_ONE_KERNEL = {_aten.scaled_dot_product_attention, _aten._upsample_nearest_exact2d}
"""What a GPU does in one kernel that asks for its result alone, and `meta` in several."""


class LiveBytes(TorchDispatchMode):
    """While it is active, counts the memory of tensors that are made on one device.

    Memory that several tensors share counts once, and what was there before does not count. A
    kernel's own workspace is not seen. Works on `meta`, where tensors have sizes and no memory.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.live: int = 0
        self.peak: int = 0
        self._device = device
        self._known: set[int] = set()

    def know(self, *tensors: Tensor) -> None:
        """These were there before, so they are not counted."""
        self._known.update(tensor.untyped_storage()._cdata for tensor in tensors)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket not in _ONE_KERNEL:
            # In inference mode an operation comes whole; what it is made of takes memory, too.
            with self:
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == self._device.type:
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address in self._known:
            return
        size = storage.nbytes()
        self._known.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size
