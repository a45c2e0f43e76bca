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
from warnings import catch_warnings

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.errors import PipelineError
from pipeline.libraries import cudnn_versions
from pipeline.memory import is_device_full

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Query [B, S, H, E], key and value [B, L, H, E], one dtype -> [B, S, H * E]: softmax over all
keys, scaled by 1 / sqrt(E), no mask."""

_NUM_RUNS = 3
_NUM_CHECKED_ROWS = 256
_GAIN = 1.05
"""How much faster a backend has to be than one that is preferred to it."""
_FA3_CAPABILITY = (9, 0)
"""Of Hopper. The wheel has no code for later ones, and on them it ends the process."""

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
    "fa3": attend_fa3,
    "cudnn": attend_cudnn,
    "native": attend_native,
    "flash": attend_flash,
}
"""In the order of preference: see `_preferred`."""


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
    about two seconds at the largest shape. On a CPU torch's own choice is the only one. Each rounds
    in its own way, so a small gain does not decide: the next start might find it the other way
    round, and would make another video of the same seed.

    Args:
        name: `auto`, or a backend that is to be taken whatever the others do.

    Raises:
        AttentionUnavailable: `name` is unknown, or does not run here.
        torch.OutOfMemoryError, RuntimeError: the device has too little memory to try.
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
    best = _preferred(usable)
    warnings = tuple(_warnings(device, dtype, trials))
    return Choice(best.name, BACKENDS[best.name], trials, warnings)


def _preferred(usable: Sequence[Trial]) -> Trial:
    """The first, unless a later one is faster by more than measurements differ."""
    best, *others = usable
    for trial in others:
        assert best.seconds is not None and trial.seconds is not None
        if trial.seconds * _GAIN < best.seconds:
            best = trial
    return best


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
    """Run one backend; whatever it raises is the reason why it is out, but for full memory."""
    attend = BACKENDS[name]
    try:
        if name == "fa3":
            load_fa3(inputs[0].device)
        with catch_warnings(action="ignore"):
            # In several warnings torch says why none of its kernels will do.
            error = _error(attend(*inputs), inputs)
        seconds = min(_timed(attend, inputs) for _ in range(_NUM_RUNS))
    except (RuntimeError, ImportError, OSError, AttentionUnavailable) as fault:
        if is_device_full(fault):
            raise
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


def _warnings(device: torch.device, dtype: torch.dtype, trials: Sequence[Trial]) -> list[str]:
    """What costs speed without an error: cuDNN not there, or shadowed by another installation."""
    warnings = []
    cudnn = next((trial for trial in trials if trial.name == "cudnn"), None)
    # It is the faster one there, and has no kernels for float32.
    is_wanted = torch.cuda.get_device_capability(device) >= (9, 0) and dtype != torch.float32
    if cudnn is not None and cudnn.refusal is not None and is_wanted:
        warnings.append(f"cuDNN's attention is not used: {cudnn.refusal}.")
    built, found = cudnn_versions()
    if built != found:
        warnings.append(
            f"torch was built with cuDNN {built} and found {found}: another installation, "
            "perhaps in LD_LIBRARY_PATH, stands before the one that came with torch."
        )
    return warnings


def load_fa3(device: torch.device) -> None:
    """Register FlashAttention-3 with torch, once.

    Raises:
        AttentionUnavailable: the `fa3` extra is not installed, or not for this device.
    """
    if find_spec("fa3_fwd_interface") is None:
        raise AttentionUnavailable("the package fa3-fwd is not installed")
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) != _FA3_CAPABILITY:
        raise AttentionUnavailable(f"it is for GPUs of capability 9.0, not {major}.{minor}")
    if hasattr(torch.ops.cosmos_serve, "fa3"):
        return
    from fa3_fwd_interface import flash_attn_func

    @torch.library.custom_op("cosmos_serve::fa3", mutates_args=())
    def fa3(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed = flash_attn_func(query, key, value)
        result: Tensor = mixed[0] if isinstance(mixed, tuple) else mixed
        return result

    @fa3.register_fake
    def _(query: Tensor, _key: Tensor, _value: Tensor) -> Tensor:
        return torch.empty_like(query, memory_format=torch.contiguous_format)
