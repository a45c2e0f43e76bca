"""The parts of the diffusion transformer: what one block is made of.

Letters in shapes: B batch, T latent frames, N tokens of one frame, S = T * N tokens of the video,
D width, H heads, E width of one head, L text tokens.

In bfloat16 the matrix products and the attention round, and nothing else: patch and time embedding,
modulation, every normalisation, the rotation, the sum that runs through the blocks and the final
layer stay in float32, because the error of the plain recipe comes from them.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.network.attention import Attend
from pipeline.network.kernels.heads import norm_heads_
from pipeline.network.kernels.residual import Residual, add_gated_modulate

_TIME_NORM_EPS = 1e-6
_TIME_PERIOD = 10_000.0
_ROTARY_BASE = 10_000.0

WIDENED_BYTES = 3 * 2**27
"""The most that one intermediate result of a feed-forward takes; there are two at a time."""


class RotaryTables(NamedTuple):
    """Cosines and sines of every token's angles, each [S, 1, E / 2], for one request."""

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


class Modulation(NamedTuple):
    """What the time does to one sub-layer, each [B, T, 1, D]; the final layer has no gate."""

    shift: Tensor
    scale: Tensor
    gate: Tensor | None = None


class BlockModulation(NamedTuple):
    """What the time does to the three sub-layers of one block."""

    self_attention: Modulation
    text_attention: Modulation
    feed_forward: Modulation


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

    def forward(self, times: TimeEmbedding) -> Modulation:
        low_rank = self.linear_2(self.linear_1(functional.silu(times.normed)))
        modulation: Tensor = low_rank + times.offset[..., : low_rank.shape[-1]]
        # [B, T, parts * D] -> parts x [B, T, 1, D], to broadcast over a frame's tokens
        return Modulation(*torch.chunk(modulation.unsqueeze(2), self.parts, dim=-1))


class SelfAttention(nn.Module):
    """Attention among the tokens of the video. Queries, keys and values are one product."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.norm_q = nn.RMSNorm(width // heads, eps=eps)
        self.norm_k = nn.RMSNorm(width // heads, eps=eps)
        self.to_out = nn.ModuleList([nn.Linear(width, width, bias=False)])

    def forward(self, tokens: Tensor, rotary: RotaryTables, attend: Attend) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        packed: Tensor = self.to_qkv(tokens).view(*tokens.shape[:2], 3, self.heads, -1)
        query, key, value = packed.unbind(2)
        norm_heads_(query, self.norm_q, rotary)
        norm_heads_(key, self.norm_k, rotary)
        mixed = attend(query, key, value)
        del packed, query, key, value  # the product needs no room beside them
        update: Tensor = self.to_out[0](mixed)
        return update


class TextAttention(nn.Module):
    """Attention of the video's tokens to a prompt."""

    def __init__(self, width: int, text_width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(text_width, width, bias=False)
        self.to_v = nn.Linear(text_width, width, bias=False)
        self.norm_q = nn.RMSNorm(width // heads, eps=eps)
        self.norm_k = nn.RMSNorm(width // heads, eps=eps)
        self.to_out = nn.ModuleList([nn.Linear(width, width, bias=False)])

    def forward(self, tokens: Tensor, text: KeysValues, attend: Attend) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        query = norm_heads_(self._by_head(self.to_q(tokens)), self.norm_q)
        mixed: Tensor = self.to_out[0](attend(query, text.keys, text.values))
        return mixed

    def keys_values(self, text: Tensor) -> KeysValues:
        """A prompt, [B, L, text_embed_dim], as this layer sees it."""
        keys = norm_heads_(self._by_head(self.to_k(text)), self.norm_k)
        return KeysValues(keys, self._by_head(self.to_v(text)))

    def _by_head(self, tokens: Tensor) -> Tensor:
        return tokens.view(*tokens.shape[:2], self.heads, -1)


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
        """[..., D] -> [..., D], so many rows at a time as `WIDENED_BYTES` allows."""
        net: Any = self.net  # a ModuleList has no item types
        widen, narrow = net[0]["proj"], net[2]
        rows = tokens.flatten(0, -2)
        num_blocks = -(-rows.shape[0] * widen.out_features * rows.element_size() // WIDENED_BYTES)
        if num_blocks <= 1:
            narrowed: Tensor = narrow(functional.gelu(widen(tokens)))
            return narrowed
        narrowed = torch.empty_like(rows)
        for block, place in zip(rows.chunk(num_blocks), narrowed.chunk(num_blocks), strict=True):
            torch.mm(functional.gelu(widen(block)), narrow.weight.T, out=place)
        return narrowed.view_as(tokens)


class Block(nn.Module):
    """Self-attention, attention to the text, feed-forward; each modulated by the time.

    A sub-layer reads the stream's modulated copy and leaves an update; adding that and making the
    next sub-layer's copy is one step, so a block also makes the copy for whatever follows it.
    The stream that a block is given becomes the one that it returns: it is written in place.
    """

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
        self.attn1 = SelfAttention(width, heads, qk_norm_eps)
        self.norm2 = ModulationMLP(width, rank, parts=3)
        self.attn2 = TextAttention(width, text_width, heads, qk_norm_eps)
        self.norm3 = ModulationMLP(width, rank, parts=3)
        self.ff = FeedForward(width, inner)

    def modulation(self, times: TimeEmbedding) -> BlockModulation:
        """What the time of one step does to this block."""
        return BlockModulation(self.norm1(times), self.norm2(times), self.norm3(times))

    def forward(
        self,
        stream: Residual,
        modulation: BlockModulation,
        following: Modulation,
        rotary: RotaryTables,
        text: KeysValues,
        attend_video: Attend,
        attend_text: Attend,
    ) -> Residual:
        """The whole block; `following` modulates the copy for the block or layer after it."""
        stream = self.attend_self(stream, modulation, rotary, attend_video)
        return self.attend_text_and_feed_forward(stream, modulation, following, text, attend_text)

    def attend_self(
        self, stream: Residual, modulation: BlockModulation, rotary: RotaryTables, attend: Attend
    ) -> Residual:
        """The part before the text is first looked at."""
        update = self.attn1(stream.normed.flatten(1, 2), rotary, attend)
        return advance(stream, update, modulation.self_attention, modulation.text_attention)

    def attend_text_and_feed_forward(
        self,
        stream: Residual,
        modulation: BlockModulation,
        following: Modulation,
        text: KeysValues,
        attend: Attend,
        *,
        is_shared: bool = False,
    ) -> Residual:
        """The rest; a stream that others read, too, is left as it is."""
        update = self.attn2(stream.normed.flatten(1, 2), text, attend)
        stream = advance(
            stream,
            update,
            modulation.text_attention,
            modulation.feed_forward,
            in_place=not is_shared,
        )
        del update
        update = self.ff(stream.normed)
        return advance(stream, update, modulation.feed_forward, following)


def advance(
    stream: Residual,
    update: Tensor,
    modulation: Modulation,
    following: Modulation,
    *,
    in_place: bool = True,
) -> Residual:
    """Add a sub-layer's update, gated by its modulation, and make the copy for the following one.

    The copy has the dtype of the large products, but for the final layer, which has no gate.
    """
    assert modulation.gate is not None, "only the final layer has no gate"
    return add_gated_modulate(
        stream.hidden,
        modulation.gate,
        update,
        following.shift,
        following.scale,
        dtype=stream.normed.dtype if following.gate is not None else following.shift.dtype,
        into=stream if in_place else None,
    )


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
    cosines: list[Tensor] = []
    sines: list[Tensor] = []
    for axis, (length, dim, stretch) in enumerate(zip(grid, axis_dims, scale, strict=True)):
        exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
        base = _ROTARY_BASE * stretch ** (dim / (dim - 2))
        frequencies = base ** -exponents.to(exponent_dtype).double()
        angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
        shape = [1, 1, 1, -1]
        shape[axis] = length
        # One row for each place along the axis; the tokens that share it take it on the device.
        for rows, table in ((angles.cos(), cosines), (angles.sin(), sines)):
            table.append(rows.to(device, dtype).view(shape).expand(*grid, -1))
    # [T, rows, columns, E / 2] -> [S, 1, E / 2], to broadcast over heads
    return RotaryTables(
        *(torch.cat(table, dim=-1).flatten(0, 2).unsqueeze(1) for table in (cosines, sines))
    )


def time_sinusoid(times: Tensor, width: int) -> Tensor:
    """[...] -> [..., width]: cosines, then sines, at falling frequencies."""
    half = width // 2
    steps = torch.arange(half, device=times.device, dtype=times.dtype)
    angles = times[..., None] * torch.exp(-math.log(_TIME_PERIOD) / half * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
