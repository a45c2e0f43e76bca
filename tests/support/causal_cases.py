"""A program: runs the kernel of the VAE's convolution inputs by Triton's interpreter.

To be started with TRITON_INTERPRET=1. Prints a JSON object: for each case the relative L2 distance
to float64 of the fused form, of the plain one and of diffusers' own layers, and whether what was
only copied, what surrounds the frames, and what is kept for the next time are right to the bit.
"""

import json

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm
from torch import Tensor
from torch.nn import functional

from pipeline.network.kernels.causal import causal_input_fused, causal_input_plain

GENERATOR = torch.Generator().manual_seed(0)
CPU = torch.device("cpu")
Case = dict[str, float | bool]


def distance(value: Tensor, exact: Tensor) -> float:
    return float((value.double() - exact).norm() / exact.norm())


def by_diffusers(frames: Tensor, kept: Tensor, padding: int, norm: WanRMS_norm) -> Tensor:
    """As `WanResidualBlock` and `WanCausalConv3d` make a convolution's input."""
    activated = functional.silu(norm(frames))
    return functional.pad(torch.cat([kept, activated], dim=2), (padding,) * 4)


def case(
    channels: int, num_frames: int, padding: int, dtype: torch.dtype, device: torch.device
) -> Case:
    """Frames of 5x7 pixels, whose number is no multiple of what a program takes."""

    def random(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=GENERATOR).to(device, dtype)
        return values.contiguous(memory_format=torch.channels_last_3d)

    frames, kept = 3 * random(2, channels, num_frames, 5, 7), random(2, channels, 2, 5, 7)
    norm = WanRMS_norm(channels, images=False)
    norm.gamma = torch.nn.Parameter(random(1, channels, 1, 1, 1)[0], requires_grad=False)
    frames[0, :, 0, 0, 0] = 0  # a pixel without length
    exact_norm = WanRMS_norm(channels, images=False)
    exact_norm.gamma = torch.nn.Parameter(norm.gamma.double(), requires_grad=False)

    exact = by_diffusers(frames.double(), kept.double(), padding, exact_norm)
    theirs = by_diffusers(frames, kept, padding, norm)
    mine, other = kept.clone(), kept.clone()
    fused = causal_input_fused(frames, mine, padding, norm)
    plain = causal_input_plain(frames, other, padding, norm)
    inside = slice(padding, -padding or None)
    border = fused.clone()
    border[..., inside, inside] = 0

    copied, also_copied = kept.clone(), kept.clone()
    only_copied = causal_input_fused(frames, copied, padding)
    return {
        "fused": distance(fused, exact),
        "plain": distance(plain, exact),
        "diffusers": distance(theirs, exact),
        "plain is diffusers": torch.equal(plain, theirs),
        "copies": torch.equal(only_copied, causal_input_plain(frames, also_copied, padding))
        and torch.equal(copied, also_copied),
        "border": not border.any(),
        "kept": torch.equal(mine, fused[:, :, -2:, inside, inside])
        and torch.equal(other, plain[:, :, -2:, inside, inside]),
    }


def all_cases(device: torch.device, sizes: tuple[int, ...]) -> dict[str, Case]:
    """The kernel at these numbers of channels."""
    return {
        f"{channels} channels, {frames} frames, padding {padding} -> {dtype}": case(
            channels, frames, padding, dtype, device
        )
        for channels in sizes
        for frames, padding in ((1, 1), (2, 1), (4, 1), (2, 0))
        for dtype in (torch.float32, torch.bfloat16)
    }


if __name__ == "__main__":
    with torch.inference_mode():
        print(json.dumps(all_cases(CPU, sizes=(16, 96))))
