"""The Triton side of `heads.py`."""

import triton
import triton.language as tl

NUM_WARPS = 4


@triton.jit
def norm_heads_kernel(
    heads_ptr,
    weight_ptr,
    cos_ptr,
    sin_ptr,
    tokens,
    stride_batch,
    stride_token,
    stride_head,
    num_heads,
    half,
    eps,
    ROTATE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    """One token: all its heads, as a tile of first halves and a tile of second halves."""
    program = tl.program_id(0).to(tl.int64)
    token = program % tokens
    start = (program // tokens) * stride_batch + token * stride_token
    head = tl.arange(0, BLOCK_HEADS)[:, None]
    column = tl.arange(0, BLOCK_HALF)[None, :]
    inside = (head < num_heads) & (column < half)
    first_ptr = heads_ptr + start + head * stride_head + column
    second_ptr = first_ptr + half

    first = tl.load(first_ptr, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(second_ptr, mask=inside, other=0.0).to(tl.float32)
    square = tl.sum(first * first + second * second, axis=1) / (2 * half)
    factor = tl.rsqrt(square + eps)[:, None]
    is_column = column < half
    first = first * factor * tl.load(weight_ptr + column, mask=is_column, other=0.0)
    second = second * factor * tl.load(weight_ptr + half + column, mask=is_column, other=0.0)
    if ROTATE:
        cos = tl.load(cos_ptr + token * half + column, mask=is_column, other=0.0)
        sin = tl.load(sin_ptr + token * half + column, mask=is_column, other=0.0)
        turned = first * cos - second * sin
        second = second * cos + first * sin
        first = turned
    tl.store(first_ptr, first.to(heads_ptr.dtype.element_ty), mask=inside)
    tl.store(second_ptr, second.to(heads_ptr.dtype.element_ty), mask=inside)
