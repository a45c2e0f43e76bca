"""The Triton side of `causal.py`."""

import triton
import triton.language as tl

NUM_WARPS = 8


@triton.jit
def causal_input_kernel(
    frames_ptr,
    kept_ptr,
    padded_ptr,
    gamma_ptr,
    factor,
    num_frames,
    height,
    width,
    channels,
    eps,
    PADDING: tl.constexpr,
    NORM: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Some pixels of the padded frames, with all their channels, one frame after the other."""
    batch = tl.program_id(1).to(tl.int64)
    padded_height, padded_width = height + 2 * PADDING, width + 2 * PADDING
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)[:, None]
    channel = tl.arange(0, BLOCK_CHANNELS)[None, :]
    is_channel = channel < channels
    row, column = pixel // padded_width - PADDING, pixel % padded_width - PADDING
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & is_channel
    is_padded = (pixel < padded_height * padded_width) & is_channel

    frame = tl.cast(height, tl.int64) * width * channels
    padded_frame = tl.cast(padded_height, tl.int64) * padded_width * channels
    here = (row * width + column) * channels + channel
    here_kept = kept_ptr + batch * 2 * frame + here
    here_frames = frames_ptr + batch * num_frames * frame + here
    there = padded_ptr + batch * (num_frames + 2) * padded_frame + pixel * channels + channel

    # Outside, zeros are read, of which the norm makes zeros.
    first = tl.load(here_kept, mask=is_inside, other=0.0)
    second = tl.load(here_kept + frame, mask=is_inside, other=0.0)
    # A thread may write what another one is still to read.
    tl.debug_barrier()
    tl.store(there, first, mask=is_padded)
    tl.store(there + padded_frame, second, mask=is_padded)
    if num_frames == 1:
        tl.store(here_kept, second, mask=is_inside)
    if NORM:
        # For every pixel, so that it lies as the frames do.
        weights = gamma_ptr + channel + tl.zeros_like(pixel)
        gamma = tl.load(weights, mask=is_channel, other=0.0).to(tl.float32)
    for index in range(num_frames):
        value = tl.load(here_frames + index * frame, mask=is_inside, other=0.0)
        if NORM:
            wide = value.to(tl.float32)
            length = tl.sqrt(tl.sum(wide * wide, axis=1))[:, None]
            wide = wide / tl.maximum(length, eps) * factor * gamma
            value = (wide / (1.0 + tl.exp(-wide))).to(padded_ptr.dtype.element_ty)
        tl.store(there + (index + 2) * padded_frame, value, mask=is_padded)
        from_last = index - num_frames + 2
        if from_last >= 0:
            tl.store(here_kept + from_last * frame, value, mask=is_inside)
