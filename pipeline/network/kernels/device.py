"""Whether the fused kernels can run on a tensor's device."""

from importlib.util import find_spec

from torch import Tensor

HAS_TRITON = find_spec("triton") is not None

_is_allowed = True


def allow_fused(is_allowed: bool) -> None:
    """Let this process use the fused kernels, or the plain forms alone."""
    global _is_allowed
    _is_allowed = is_allowed


def can_fuse(tensor: Tensor) -> bool:
    """Whether a fused kernel takes this tensor: on a GPU, with Triton, and not in float64.

    float64 is what kernels are measured against; it stays with the plain form.
    """
    return HAS_TRITON and _is_allowed and tensor.is_cuda and tensor.element_size() <= 4
