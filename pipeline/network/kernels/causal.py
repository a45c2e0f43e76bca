"""What a causal convolution of the VAE reads, made in one pass.

diffusers normalises, multiplies by two factors, applies SiLU, joins the result to the frames that
went before, keeps the last ones for the next time, and pads: each a pass over frames of which one
at full size is 165 MiB. Here they are read once and written once.

Letters in shapes: B batch, C channels, T frames, H height, W width, P padding of each side.
"""

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm
from torch import Tensor
from torch.nn import functional

from pipeline.network.kernels.device import HAS_TRITON, can_fuse

if HAS_TRITON:
    from pipeline.network.kernels.causal_triton import NUM_WARPS, causal_input_kernel

KEPT_FRAMES = 2
"""The frames before the first that a convolution over three frames reads."""

NORM_EPS = 1e-12
PROGRAM_ELEMENTS = 4096
"""Of one frame, in one program."""


def nothing_kept(frames: Tensor) -> Tensor:
    """What a convolution has kept before its first frames, laid out for `causal_input`."""
    batch, channels, _, height, width = frames.shape
    layout = torch.channels_last_3d if can_fuse(frames) else torch.contiguous_format
    return torch.empty(
        (batch, channels, KEPT_FRAMES, height, width),
        dtype=frames.dtype,
        device=frames.device,
        memory_format=layout,
    ).zero_()


def causal_input(
    frames: Tensor, kept: Tensor, padding: int, norm: WanRMS_norm | None = None
) -> Tensor:
    """The kept frames and then these, with zeros around each; these are normalised, then SiLU.

    Args:
        frames: [B, C, T, H, W], T at least 1.
        kept: [B, C, 2, H, W], what this convolution read last, or `nothing_kept`. The last two
            frames overwrite it.
        padding: P.
        norm: over the channels; without it the frames are taken as they are, without SiLU.

    Returns:
        [B, C, 2 + T, H + 2 * P, W + 2 * P] in the dtype of `frames`, rounded once.
    """
    if can_fuse(frames):
        return causal_input_fused(frames, kept, padding, norm)
    return causal_input_plain(frames, kept, padding, norm)


def causal_input_plain(
    frames: Tensor, kept: Tensor, padding: int, norm: WanRMS_norm | None = None
) -> Tensor:
    """What `causal_input` computes, operation by operation."""
    if norm is not None:
        wide = frames.to(torch.promote_types(frames.dtype, torch.float32))
        normed = functional.normalize(wide, dim=1, eps=NORM_EPS) * norm.scale * norm.gamma
        frames = functional.silu(normed).to(frames.dtype)
    joined = torch.cat([kept, frames], dim=2)
    kept.copy_(joined[:, :, -KEPT_FRAMES:])
    return functional.pad(joined, (padding, padding, padding, padding))


def causal_input_fused(
    frames: Tensor, kept: Tensor, padding: int, norm: WanRMS_norm | None = None
) -> Tensor:
    """`causal_input` in one kernel; a program takes a few pixels of all frames."""
    batch, channels, num_frames, height, width = frames.shape
    frames = frames.contiguous(memory_format=torch.channels_last_3d)
    assert kept.is_contiguous(memory_format=torch.channels_last_3d), "it is written in place"
    padded_size = (height + 2 * padding, width + 2 * padding)
    padded = torch.empty(
        (batch, channels, KEPT_FRAMES + num_frames, *padded_size),
        dtype=frames.dtype,
        device=frames.device,
        memory_format=torch.channels_last_3d,
    )
    block_channels = 1 << (channels - 1).bit_length()
    block_pixels = max(1, PROGRAM_ELEMENTS // block_channels)
    num_pixels = padded_size[0] * padded_size[1]
    causal_input_kernel[(-(-num_pixels // block_pixels), batch)](
        frames,
        kept,
        padded,
        frames if norm is None else norm.gamma,  # any pointer does where none is read
        1.0 if norm is None else norm.scale,
        num_frames,
        height,
        width,
        channels,
        NORM_EPS,
        PADDING=padding,
        NORM=norm is not None,
        BLOCK_PIXELS=block_pixels,
        BLOCK_CHANNELS=block_channels,
        num_warps=NUM_WARPS,
    )
    return padded
