"""Normalising queries and keys head by head and turning them by their angles, in place.

Letters in shapes: B batch, S tokens, H heads, E width of one head.
"""

import torch
from torch import Tensor, nn

from pipeline.network.kernels.device import HAS_TRITON, can_fuse

if HAS_TRITON:
    from pipeline.network.kernels.heads_triton import NUM_WARPS, norm_heads_kernel


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first half of each head, [B, S, H, E], against the second.

    `cos` and `sin` are [S, 1, E / 2], in the dtype of `heads`.
    """
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def norm_heads_(
    heads: Tensor, norm: nn.RMSNorm, angles: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Normalise each head by its root mean square, weight it, and turn it, rounding once.

    Args:
        heads: [B, S, H, E], overwritten; it may be a slice of a packed tensor.
        norm: over E, its weight at least float32.
        angles: cosines and sines, [S, 1, E / 2] in the dtype of the weight, or None for no turn.

    Returns:
        `heads`.
    """
    if can_fuse(heads):
        return norm_heads_fused_(heads, norm, angles)
    return norm_heads_plain_(heads, norm, angles)


def norm_heads_plain_(
    heads: Tensor, norm: nn.RMSNorm, angles: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """What `norm_heads_` computes, operation by operation."""
    wide: Tensor = norm(heads.to(norm.weight.dtype))
    if angles is not None:
        wide = rotate(wide, *angles)
    return heads.copy_(wide)


def norm_heads_fused_(
    heads: Tensor, norm: nn.RMSNorm, angles: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """`norm_heads_` in one kernel, a program for each token."""
    batch, tokens, num_heads, head_dim = heads.shape
    assert heads.stride(3) == 1, "the numbers of one head lie side by side"
    assert norm.eps is not None
    cos, sin = angles or (norm.weight, norm.weight)  # any pointer does where none is read
    norm_heads_kernel[(batch * tokens,)](
        heads,
        norm.weight,
        cos,
        sin,
        tokens,
        heads.stride(0),
        heads.stride(1),
        heads.stride(2),
        num_heads,
        head_dim // 2,
        norm.eps,
        ROTATE=angles is not None,
        BLOCK_HEADS=1 << (num_heads - 1).bit_length(),
        BLOCK_HALF=1 << (head_dim // 2 - 1).bit_length(),
        num_warps=NUM_WARPS,
    )
    return heads
