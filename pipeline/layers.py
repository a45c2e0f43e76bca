"""The parts of the diffusion transformer: what one block is made of.

Letters in shapes: B batch, T latent frames, N tokens of one frame, D width, H heads, E width of one
head, L text tokens.

In bfloat16 the matrix products and the attention round, and nothing else: patch and time embedding,
modulation, every normalisation, the rotation, the sum that runs through the blocks and the final
layer stay in float32, because the error of the plain recipe comes from them.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attention import attend

_LAYER_NORM_EPS = 1e-6
_TIME_NORM_EPS = 1e-6
_TIME_PERIOD = 10_000.0
_ROTARY_BASE = 10_000.0


class RotaryTables(NamedTuple):
    """Cosines and sines of every token's angles, each [T * N, 1, E / 2], for one request."""

    cos: Tensor
    sin: Tensor


class KeysValues(NamedTuple):
    """One prompt as one block's cross-attention sees it, each [B, L, H, E]."""

    keys: Tensor
    values: Tensor


class TimeEmbedding(NamedTuple):
    """The time of every frame: `normed` [B, T, D] and `offset` [B, T, 3 * D], at least float32."""

    normed: Tensor
    offset: Tensor


def island_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the parts that never run below float32."""
    return torch.promote_types(dtype, torch.float32)


class PatchEmbed(nn.Module):
    """A patch of cells -> one token."""

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_features, width, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        tokens: Tensor = self.proj(patches.to(self.proj.weight.dtype))
        return tokens


class TimeEmbed(nn.Module):
    """The noise level of every frame -> the two embeddings that modulation is made from."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.t_embedder = nn.ModuleDict(
            {
                "linear_1": nn.Linear(width, width, bias=False),
                "linear_2": nn.Linear(width, 3 * width, bias=False),
            }
        )
        self.norm = nn.RMSNorm(width, eps=_TIME_NORM_EPS)

    def forward(self, times: Tensor) -> TimeEmbedding:
        sinusoid = time_sinusoid(times.to(self.norm.weight.dtype), self.norm.normalized_shape[0])
        offset = self.t_embedder["linear_2"](functional.silu(self.t_embedder["linear_1"](sinusoid)))
        return TimeEmbedding(self.norm(sinusoid), offset)


class ModulationMLP(nn.Module):
    """The time -> shift and scale (and gate) of one sub-layer, through a low rank."""

    def __init__(self, width: int, rank: int, parts: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, rank, bias=False)
        self.linear_2 = nn.Linear(rank, parts * width, bias=False)
        self.parts = parts

    def forward(self, times: TimeEmbedding) -> tuple[Tensor, ...]:
        low_rank = self.linear_2(self.linear_1(functional.silu(times.normed)))
        modulation: Tensor = low_rank + times.offset[..., : low_rank.shape[-1]]
        # [B, T, parts * D] -> parts x [B, T, 1, D], to broadcast over a frame's tokens
        return torch.chunk(modulation.unsqueeze(2), self.parts, dim=-1)


class Attention(nn.Module):
    """Projections and normalisation around `attend`."""

    def __init__(self, width: int, source_width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(source_width, width, bias=False)
        self.to_v = nn.Linear(source_width, width, bias=False)
        self.norm_q = nn.RMSNorm(width // heads, eps=eps)
        self.norm_k = nn.RMSNorm(width // heads, eps=eps)
        self.to_out = nn.ModuleList([nn.Linear(width, width, bias=False)])

    def attend_self(self, tokens: Tensor, rotary: RotaryTables) -> Tensor:
        """Attention among `tokens`, [B, S, D] -> [B, S, D]."""
        query = rotate(self._normed(self.norm_q, self.to_q(tokens)), rotary).to(tokens.dtype)
        key = rotate(self._normed(self.norm_k, self.to_k(tokens)), rotary).to(tokens.dtype)
        value = self._by_head(self.to_v(tokens))
        mixed: Tensor = self.to_out[0](attend(query, key, value))
        return mixed

    def attend_text(self, tokens: Tensor, text: KeysValues) -> Tensor:
        """Attention of `tokens`, [B, S, D], to a prompt -> [B, S, D]."""
        query = self._normed(self.norm_q, self.to_q(tokens)).to(tokens.dtype)
        mixed: Tensor = self.to_out[0](attend(query, text.keys, text.values))
        return mixed

    def keys_values(self, text: Tensor) -> KeysValues:
        """A prompt, [B, L, text_embed_dim], as this layer sees it."""
        keys = self._normed(self.norm_k, self.to_k(text)).to(text.dtype)
        return KeysValues(keys, self._by_head(self.to_v(text)))

    def _by_head(self, tokens: Tensor) -> Tensor:
        return tokens.view(*tokens.shape[:2], self.heads, -1)

    def _normed(self, norm: nn.RMSNorm, tokens: Tensor) -> Tensor:
        """Heads normalised and weighted, left in at least float32 for the caller to round once."""
        normed: Tensor = norm(self._by_head(tokens).to(norm.weight.dtype))
        return normed


class FeedForward(nn.Module):
    """Two matrix products around an exact GELU. The published names count a dropout between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [
                nn.ModuleDict({"proj": nn.Linear(width, inner, bias=False)}),
                nn.Identity(),
                nn.Linear(inner, width, bias=False),
            ]
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the large matrix products."""
        weight: Tensor = self.net[2].weight  # type: ignore[assignment]  # a Linear
        return weight.dtype

    def forward(self, tokens: Tensor) -> Tensor:
        widened = self.net[0]["proj"](tokens)  # type: ignore[index]  # a ModuleDict
        narrowed: Tensor = self.net[2](functional.gelu(widened))
        return narrowed


class Block(nn.Module):
    """Self-attention, attention to the text, feed-forward; each modulated by the time."""

    def __init__(
        self,
        *,
        width: int,
        text_width: int,
        heads: int,
        inner: int,
        rank: int,
        qk_norm_eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = ModulationMLP(width, rank, parts=3)
        self.attn1 = Attention(width, width, heads, qk_norm_eps)
        self.norm2 = ModulationMLP(width, rank, parts=3)
        self.attn2 = Attention(width, text_width, heads, qk_norm_eps)
        self.norm3 = ModulationMLP(width, rank, parts=3)
        self.ff = FeedForward(width, inner)

    def attend_self(self, hidden: Tensor, times: TimeEmbedding, rotary: RotaryTables) -> Tensor:
        """Add self-attention over all frames to `hidden`, [B, T, N, D]."""
        shift, scale, gate = self.norm1(times)
        normed = modulate(hidden, shift, scale, self.ff.dtype)
        return add_gated(hidden, gate, self.attn1.attend_self(normed.flatten(1, 2), rotary))

    def attend_text(self, hidden: Tensor, times: TimeEmbedding, text: KeysValues) -> Tensor:
        """Add attention to the prompt to `hidden`, [B, T, N, D]."""
        shift, scale, gate = self.norm2(times)
        normed = modulate(hidden, shift, scale, self.ff.dtype)
        return add_gated(hidden, gate, self.attn2.attend_text(normed.flatten(1, 2), text))

    def feed_forward(self, hidden: Tensor, times: TimeEmbedding) -> Tensor:
        """Add the feed-forward network to `hidden`, [B, T, N, D]."""
        shift, scale, gate = self.norm3(times)
        return add_gated(hidden, gate, self.ff(modulate(hidden, shift, scale, self.ff.dtype)))


def modulate(hidden: Tensor, shift: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`norm(hidden) * (1 + scale) + shift` in the dtype of `shift`, rounded to `dtype`."""
    wide = hidden.to(shift.dtype)
    normed = functional.layer_norm(wide, wide.shape[-1:], eps=_LAYER_NORM_EPS)
    return (normed * (1 + scale) + shift).to(dtype)


def add_gated(hidden: Tensor, gate: Tensor, update: Tensor) -> Tensor:
    """`hidden + gate * update`, computed in the dtype of `gate`, rounded to that of `hidden`."""
    update = update.view_as(hidden).to(gate.dtype)
    return (hidden.to(gate.dtype) + gate * update).to(hidden.dtype)


def rotate(heads: Tensor, rotary: RotaryTables) -> Tensor:
    """Turn the first half of each head against the second by the token's angles.

    `heads` is [B, T * N, H, E], in the dtype of the tables.
    """
    first, second = heads.chunk(2, dim=-1)
    cos, sin = rotary
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def rotary_tables(
    grid: tuple[int, int, int],
    *,
    head_dim: int,
    scale: tuple[float, float, float],
    exponent_dtype: torch.dtype,
    device: torch.device,
    dtype: torch.dtype,
) -> RotaryTables:
    """Angles from each token's frame, row and column.

    Rows and columns get `head_dim // 6 * 2` of a head's numbers each, frames the rest. `scale`
    stretches the wavelengths of (frames, rows, columns), as NTK-aware scaling does.
    """
    axis_dim = head_dim // 6 * 2
    axis_dims = (head_dim - 2 * axis_dim, axis_dim, axis_dim)
    angles = []
    for axis, (length, dim, stretch) in enumerate(zip(grid, axis_dims, scale, strict=True)):
        exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
        base = _ROTARY_BASE * stretch ** (dim / (dim - 2))
        frequencies = base ** -exponents.to(exponent_dtype).double()
        shape = [1, 1, 1, -1]
        shape[axis] = length
        positions = torch.arange(length, dtype=torch.float64)
        angles.append(torch.outer(positions, frequencies).view(shape).expand(*grid, -1))
    # [T, rows, columns, E / 2] -> [T * N, 1, E / 2], to broadcast over heads
    table = torch.cat(angles, dim=-1).flatten(0, 2).unsqueeze(1)
    return RotaryTables(table.cos().to(device, dtype), table.sin().to(device, dtype))


def time_sinusoid(times: Tensor, width: int) -> Tensor:
    """[...] -> [..., width]: cosines, then sines, at falling frequencies."""
    half = width // 2
    steps = torch.arange(half, device=times.device, dtype=times.dtype)
    angles = times[..., None] * torch.exp(-math.log(_TIME_PERIOD) / half * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
