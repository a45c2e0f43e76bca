"""The attention backends, and the choice among them.

Every attention of the transformer goes through one `Attend`: which kernel that is, is decided once
when a checkpoint is loaded, by measuring those that are there at the shape that counts. All of them
take [batch, tokens, heads, head_dim] as it lies in memory, a slice of packed queries, keys and
values included; none copies it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.errors import PipelineError

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Query [B, S, H, E], key and value [B, L, H, E], one dtype -> [B, S, H * E]: softmax over all
keys, scaled by 1 / sqrt(E), no mask."""

_NUM_RUNS = 3
_NUM_CHECKED_ROWS = 256
_LARGEST_ERROR = 1e-2
"""Relative L2 to float32 above which a backend is out: bfloat16 alone makes some 3e-3."""


class AttentionUnavailable(PipelineError):
    """The backend asked for does not run here."""

    code = "attention_unavailable"


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one backend: its time and error, or why it is out."""

    name: str
    seconds: float | None = None
    error: float | None = None
    refusal: str | None = None

    def __str__(self) -> str:
        if self.seconds is None:
            return f"{self.name}: {self.refusal}"
        verdict = f"{self.name}: {1000 * self.seconds:.1f} ms, error {self.error:.1e}"
        return verdict if self.refusal is None else f"{verdict}, {self.refusal}"


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend chosen, what it was chosen over, and what an operator should be warned of."""

    name: str
    attend: Attend
    trials: tuple[Trial, ...] = ()
    warnings: tuple[str, ...] = ()


def attend_native(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """torch's own choice."""
    mixed = functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    )
    return mixed.transpose(1, 2).flatten(2)


def attend_cudnn(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """cuDNN's kernel, or an error: no other takes its place."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return attend_native(query, key, value)


def attend_flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """torch's FlashAttention-2, or an error."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return attend_native(query, key, value)


def attend_fa3(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """FlashAttention-3 of the `fa3` extra, for Hopper."""
    mixed: Tensor = torch.ops.cosmos_serve.fa3(query, key, value)
    return mixed.flatten(2)


BACKENDS: dict[str, Attend] = {
    "native": attend_native,
    "cudnn": attend_cudnn,
    "flash": attend_flash,
    "fa3": attend_fa3,
}


@torch.inference_mode()
def choose_attention(
    device: torch.device,
    dtype: torch.dtype,
    *,
    tokens: int,
    heads: int,
    head_dim: int,
    name: str = "auto",
) -> Choice:
    """Pick the backend for self-attention over so many tokens.

    On a GPU every backend is run at this shape, checked against float32 on some rows, and timed:
    about two seconds at the largest shape. On a CPU torch's own choice is the only one.

    Args:
        name: `auto`, or a backend that is to be taken whatever the others do.

    Raises:
        AttentionUnavailable: `name` is unknown, or does not run here.
    """
    if name != "auto" and name not in BACKENDS:
        raise AttentionUnavailable(
            f"There is no attention backend {name!r}: say auto, {', '.join(BACKENDS)}."
        )
    if device.type != "cuda":
        if name not in ("auto", "native"):
            raise AttentionUnavailable(f"The attention backend {name} needs a GPU.")
        return Choice("native", attend_native)
    inputs = _random_inputs(device, dtype, tokens, heads, head_dim)
    names = BACKENDS if name == "auto" else (name,)
    trials = tuple(_try(candidate, inputs) for candidate in names)
    usable = [trial for trial in trials if trial.refusal is None]
    if not usable:
        raise AttentionUnavailable("No attention backend runs here: " + "; ".join(map(str, trials)))
    best = min(usable, key=lambda trial: trial.seconds or 0.0)
    return Choice(best.name, BACKENDS[best.name], trials, tuple(_warnings(device, trials)))


def _random_inputs(
    device: torch.device, dtype: torch.dtype, tokens: int, heads: int, head_dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Slices of packed queries, keys and values, as the transformer has them."""
    generator = torch.Generator(device).manual_seed(0)
    packed = torch.randn(
        1, tokens, 3, heads, head_dim, device=device, dtype=dtype, generator=generator
    )
    # Normalised heads of weight 2 give logits that tell keys apart, as trained ones do.
    packed[:, :, :2] *= 2
    query, key, value = packed.unbind(2)
    return query, key, value


def _try(name: str, inputs: tuple[Tensor, Tensor, Tensor]) -> Trial:
    """Run one backend; whatever it raises is the reason why it is out."""
    attend = BACKENDS[name]
    try:
        if name == "fa3":
            load_fa3()
        error = _error(attend(*inputs), inputs)
        seconds = min(_timed(attend, inputs) for _ in range(_NUM_RUNS))
    except (RuntimeError, ImportError, OSError, AttentionUnavailable) as fault:
        return Trial(name, refusal=f"does not run here ({str(fault).splitlines()[0]})")
    if error > _LARGEST_ERROR:
        return Trial(name, seconds, error, "too far from float32")
    return Trial(name, seconds, error)


def _timed(attend: Attend, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    torch.cuda.synchronize(inputs[0].device)
    started = time.perf_counter()
    attend(*inputs)
    torch.cuda.synchronize(inputs[0].device)
    return time.perf_counter() - started


def _error(mixed: Tensor, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    """The relative L2 distance to float32 attention, on evenly spaced rows against all keys."""
    query, key, value = inputs
    rows = torch.linspace(0, query.shape[1] - 1, _NUM_CHECKED_ROWS, device=query.device).long()
    wide_query, wide_key, wide_value = (
        tensor.float().transpose(1, 2) for tensor in (query[:, rows], key, value)
    )
    logits = wide_query @ wide_key.transpose(2, 3) / query.shape[3] ** 0.5
    exact = (logits.softmax(-1) @ wide_value).transpose(1, 2).flatten(2)
    return float((mixed[:, rows].float() - exact).norm() / exact.norm())


def _warnings(device: torch.device, trials: Sequence[Trial]) -> list[str]:
    """What costs speed without an error: cuDNN not there, or shadowed by another installation."""
    warnings = []
    cudnn = next((trial for trial in trials if trial.name == "cudnn"), None)
    is_recent = torch.cuda.get_device_capability(device) >= (9, 0)
    if cudnn is not None and cudnn.refusal is not None and is_recent:
        warnings.append(f"cuDNN's attention is not used: {cudnn.refusal}.")
    built, found = cudnn_versions()
    if built != found:
        warnings.append(
            f"torch was built with cuDNN {built} and found {found}: another installation, "
            "perhaps in LD_LIBRARY_PATH, stands before the one that came with torch."
        )
    return warnings


def cudnn_versions() -> tuple[int | None, int | None]:
    """The version of cuDNN that torch was built with, and the one that it loaded."""
    cudnn: Any = torch.backends.cudnn  # untyped
    if not cudnn.is_available():
        return None, None
    module = getattr(torch._C, "_cudnn", None)
    built = module.getCompileVersion() if module is not None else None
    if isinstance(built, tuple):
        major, minor, patch = built
        built = major * 10_000 + minor * 100 + patch
    return built, cudnn.version()


def load_fa3() -> None:
    """Register FlashAttention-3 with torch, once.

    Raises:
        AttentionUnavailable: the `fa3` extra is not installed.
    """
    if hasattr(torch.ops.cosmos_serve, "fa3"):
        return
    if find_spec("fa3_fwd_interface") is None:
        raise AttentionUnavailable("the package fa3-fwd is not installed")
    from fa3_fwd_interface import flash_attn_func

    @torch.library.custom_op("cosmos_serve::fa3", mutates_args=())
    def fa3(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed = flash_attn_func(query, key, value)
        result: Tensor = mixed[0] if isinstance(mixed, tuple) else mixed
        return result

    @fa3.register_fake
    def _(query: Tensor, _key: Tensor, _value: Tensor) -> Tensor:
        return torch.empty_like(query, memory_format=torch.contiguous_format)
