"""The Triton side of `residual.py`."""

import triton
import triton.language as tl

NUM_WARPS = 8


@triton.jit
def add_gated_modulate_kernel(
    hidden_ptr,
    update_ptr,
    gate_ptr,
    shift_ptr,
    scale_ptr,
    total_ptr,
    normed_ptr,
    frame_tokens,
    width,
    eps,
    BLOCK: tl.constexpr,
):
    """One token: `total = hidden + gate * update`, rounded; `normed` from the rounded total."""
    token = tl.program_id(0).to(tl.int64)
    frame = token // frame_tokens
    column = tl.arange(0, BLOCK)
    inside = column < width
    here = token * width + column
    modulation = frame * width + column

    hidden = tl.load(hidden_ptr + here, mask=inside, other=0.0).to(tl.float32)
    update = tl.load(update_ptr + here, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + modulation, mask=inside, other=0.0)
    total = (hidden + gate * update).to(total_ptr.dtype.element_ty)
    tl.store(total_ptr + here, total, mask=inside)

    total = total.to(tl.float32)
    centred = tl.where(inside, total - tl.sum(total, axis=0) / width, 0.0)
    variance = tl.sum(centred * centred, axis=0) / width
    normed = centred * tl.rsqrt(variance + eps)
    scale = tl.load(scale_ptr + modulation, mask=inside, other=0.0)
    shift = tl.load(shift_ptr + modulation, mask=inside, other=0.0)
    normed = normed * (1.0 + scale) + shift
    tl.store(normed_ptr + here, normed.to(normed_ptr.dtype.element_ty), mask=inside)
