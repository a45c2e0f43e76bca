"""The fused kernels are run once, beside their plain forms, before a job has to rely on them.

Triton compiles a kernel when it is first called. That takes a C compiler, Python's header files and
a folder to write to, and where one of them is missing the plain forms do the same work.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm
from torch import Tensor, nn

from pipeline.memory import is_device_full
from pipeline.network.kernels.causal import KEPT_FRAMES, causal_input_fused, causal_input_plain
from pipeline.network.kernels.device import HAS_TRITON, allow_fused
from pipeline.network.kernels.heads import norm_heads_fused_, norm_heads_plain_
from pipeline.network.kernels.residual import add_gated_modulate_fused, add_gated_modulate_plain

_FRAMES, _FRAME_TOKENS = 4, 16
_LARGEST_ERROR = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""Relative L2 between the two forms: some roundings of the result."""


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """`fused` or `plain`, and, where fused ones should have run, sentences about why not."""

    name: str
    problem: str | None = None


@torch.inference_mode()
def choose_kernels(
    device: torch.device,
    dtype: torch.dtype,
    residual_dtype: torch.dtype,
    *,
    heads: int,
    head_dim: int,
    vae_channels: Sequence[int] = (),
) -> KernelChoice:
    """Use the fused kernels in this process if they work here, by a run of each.

    The widths and dtypes are those of the network and the VAE, so that nothing is left to be
    compiled by the first job. On a CPU there is nothing to choose.

    Raises:
        torch.OutOfMemoryError, RuntimeError: the device has too little memory to try.
    """
    if device.type != "cuda":
        return KernelChoice("plain")
    problem = _problem(device, dtype, residual_dtype, heads, head_dim, vae_channels)
    allow_fused(problem is None)
    if problem is None:
        return KernelChoice("fused")
    return KernelChoice(
        "plain",
        f"The fused kernels do not work here ({problem}), so steps take longer. Triton, which "
        "compiles them, needs a C compiler and Python's header files: gcc and python3-dev.",
    )


def _problem(
    device: torch.device,
    dtype: torch.dtype,
    residual_dtype: torch.dtype,
    heads: int,
    head_dim: int,
    vae_channels: Sequence[int] = (),
) -> str | None:
    """Why the fused kernels cannot be used; None if they can."""
    if not HAS_TRITON:
        return "Triton is not installed"
    try:
        for name, fused, plain in chain(
            _residual_cases(device, dtype, residual_dtype, heads * head_dim),
            _heads_cases(device, dtype, heads, head_dim),
            *(_frames_cases(device, dtype, channels) for channels in vae_channels),
        ):
            error = float((fused.double() - plain.double()).norm() / plain.double().norm())
            # Written so that what is no number is too far, too.
            if not error <= _LARGEST_ERROR[fused.dtype]:
                return f"{name} is off by {error:.1e}"
    except Exception as error:
        if is_device_full(error):
            raise
        # Whatever a compiler, a linker or a file system says.
        first_line = str(error).strip().partition("\n")[0]
        return f"{type(error).__name__}: {first_line}"
    return None


def _residual_cases(
    device: torch.device, dtype: torch.dtype, residual_dtype: torch.dtype, width: int
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Between two sub-layers, and before the final layer, which reads float32."""
    random = _Random(device)
    hidden = random(1, _FRAMES, _FRAME_TOKENS, width, dtype=residual_dtype)
    update = random(1, _FRAMES * _FRAME_TOKENS, width, dtype=dtype)
    gate, shift, scale = (random(1, _FRAMES, 1, width) for _ in range(3))
    for result_dtype in {dtype, torch.float32}:
        arguments = (hidden, gate, update, shift, scale, result_dtype)
        fused = add_gated_modulate_fused(*arguments)
        plain = add_gated_modulate_plain(*arguments)
        yield "the sum", fused.hidden, plain.hidden
        yield "the modulated sum", fused.normed, plain.normed


def _heads_cases(
    device: torch.device, dtype: torch.dtype, heads: int, head_dim: int
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Queries of a packed tensor, turned and not."""
    random = _Random(device)
    tokens = _FRAMES * _FRAME_TOKENS
    packed = random(1, tokens, 3, heads, head_dim, dtype=dtype)
    norm = nn.RMSNorm(head_dim, eps=1e-6)
    norm.weight = nn.Parameter(random(head_dim), requires_grad=False)
    angles = random(tokens, 1, head_dim // 2)
    for turn in ((angles.cos(), angles.sin()), None):
        fused, plain = packed.clone(), packed.clone()
        norm_heads_fused_(fused[:, :, 0], norm, turn)
        norm_heads_plain_(plain[:, :, 0], norm, turn)
        yield "the norm of heads", fused, plain


def _frames_cases(
    device: torch.device, dtype: torch.dtype, channels: int
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What convolutions of the VAE read, of one frame and of several, normalised and not."""
    random = _Random(device)
    norm = WanRMS_norm(channels, images=False)
    norm.gamma = nn.Parameter(random(channels, 1, 1, 1, dtype=dtype), requires_grad=False)
    layout = torch.channels_last_3d
    for num_frames, padding, norms in ((1, 1, norm), (2, 1, norm), (2, 0, None)):
        frames, kept = (
            random(1, channels, number, 5, 7, dtype=dtype).contiguous(memory_format=layout)
            for number in (num_frames, KEPT_FRAMES)
        )
        also_kept = kept.clone()
        fused = causal_input_fused(frames, kept, padding, norms)
        plain = causal_input_plain(frames, also_kept, padding, norms)
        yield "a convolution's input", fused, plain
        yield "what a convolution keeps", kept, also_kept


class _Random:
    """Normal numbers on a device, the same at every start."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self._device, dtype)
