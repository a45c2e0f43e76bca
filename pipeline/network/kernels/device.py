"""Whether the fused kernels can run on a tensor's device."""

from importlib.util import find_spec

from torch import Tensor

HAS_TRITON = find_spec("triton") is not None


def can_fuse(tensor: Tensor) -> bool:
    """Whether a fused kernel takes this tensor: on a GPU, with Triton, and not in float64.

    float64 is what kernels are measured against; it stays with the plain form.
    """
    return HAS_TRITON and tensor.is_cuda and tensor.element_size() <= 4
