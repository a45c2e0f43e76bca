"""Sees where the host waits for a device, on a machine that has none.

Tensors on `meta` stand for those of a GPU: their work has no result, so nothing computed from them
can be read. What would have the host wait for a GPU is found by its operation: reading a number,
a size that the data decides, and a copy between host memory and the device.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
_READING = {
    _aten._local_scalar_dense,
    _aten.is_nonzero,
    _aten.equal,
    _aten.nonzero,
    _aten.masked_select,
    _aten._unique2,
    # `torch.linalg.solve` asks whether it succeeded.
    _aten._linalg_check_errors,
}
_COPYING = {_aten._to_copy, _aten.copy_, _aten._copy_from}


class HostWaits(TorchDispatchMode):
    """While it is `watching`, collects the operations for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.watching = False
        self.operations = 0
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self.watching:
            return func(*args, **(kwargs or {}))
        # In inference mode an operation comes whole; what it is made of is what waits.
        with self:
            parts = func.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        self.operations += 1
        devices = {
            leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        }
        if func.overloadpacket in _COPYING:
            target = (kwargs or {}).get("device")
            devices |= {target.type} if target is not None else set()
            waits = devices == {"cpu", "meta"}
        else:
            packet = func.overloadpacket
            waits = "meta" in devices and (packet in _READING or _is_masked(packet, args))
        if waits:
            self.found.append(str(func))
        try:
            return func(*args, **(kwargs or {}))
        except (RuntimeError, NotImplementedError):
            # Of these tensors nothing can be read, so torch refuses what was found.
            if waits:
                raise Waited(self.found[-1]) from None
            raise


class Waited(Exception):
    """The host reads what is not there: the operation."""


def _is_masked(packet: Any, args: Any) -> bool:
    """Whether a mask says which numbers are taken, and so how many."""
    masks = args[1] if packet in (_aten.index, _aten.index_put_) else []
    return any(mask is not None and mask.dtype == torch.bool for mask in masks)
