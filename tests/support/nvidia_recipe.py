"""NVIDIA's precision recipe as a plain reference: the same network, rounded where theirs rounds.

Written over the published state dict and sharing no code with the pipeline. In bfloat16 every
operation rounds, but for the time embedding, the modulation MLPs and the final layer, which run in
float32, and the q/k norms and the rotation, which round once. Given float64 it is float64
throughout, so a run can be measured against its own exact value.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention, silu

from pipeline.network.transformer import TransformerConfig


@dataclass(frozen=True)
class Recipe:
    """The network with these weights, its large products in `dtype`."""

    config: TransformerConfig
    weights: dict[str, Tensor]
    dtype: torch.dtype

    @property
    def wide(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    def velocity(self, latents: Tensor, given: Tensor, times: Tensor, text: Tensor) -> Tensor:
        """[1, 16, T, h, w], [1, T], [1, T] and [512, text_embed_dim] -> [1, 16, T, h, w]."""
        _, _, frames, height, width = latents.shape
        mask = given[:, None, :, None, None].expand(1, 1, frames, height, width)
        cells = torch.cat([latents, mask, torch.zeros_like(mask)], dim=1).to(self.dtype)
        patches = cells.view(1, 18, frames, height // 2, 2, width // 2, 2)
        patches = patches.permute(0, 2, 3, 5, 1, 4, 6).reshape(1, frames, -1, 72)
        hidden = self._linear("patch_embed.proj", patches)
        time, offset = self._time(times)
        grid = (frames, height // 2, width // 2)
        for index in range(self.config.num_layers):
            hidden = self.block(index, hidden, times, grid, text)
        shift, scale = self._modulation("norm_out", time, offset, parts=2)
        normed = layer_norm(hidden.to(self.wide), (self.config.width,), eps=1e-6)
        out = self._linear_wide("proj_out", normed * (1 + scale) + shift)
        out = out.view(1, frames, height // 2, width // 2, 2, 2, 16)
        return out.permute(0, 6, 1, 2, 4, 3, 5).reshape(1, 16, frames, height, width)

    def _time(self, times: Tensor) -> tuple[Tensor, Tensor]:
        sinusoid = self._sinusoid(times)
        inner = silu(self._linear_wide("time_embed.t_embedder.linear_1", sinusoid))
        offset = self._linear_wide("time_embed.t_embedder.linear_2", inner)
        return self._rms(sinusoid, "time_embed.norm", eps=1e-6), offset

    def block(
        self, index: int, hidden: Tensor, times: Tensor, grid: tuple[int, int, int], text: Tensor
    ) -> Tensor:
        """One block: [1, T, N, D] of `dtype`, [1, T] and [512, text_embed_dim] -> [1, T, N, D]."""
        name = f"transformer_blocks.{index}"
        time, offset = self._time(times)
        angles, text = self._angles(*grid).to(hidden.device), text.to(self.dtype)[None]
        for part in ("1", "2", "3"):
            modulation = self._modulation(f"{name}.norm{part}", time, offset, parts=3)
            shift, scale, gate = (m.to(self.dtype) for m in modulation)
            normed = layer_norm(hidden, (self.config.width,), eps=1e-6) * (1 + scale) + shift
            if part == "1":
                update = self._attention(f"{name}.attn1", normed.flatten(1, 2), None, angles)
            elif part == "2":
                update = self._attention(f"{name}.attn2", normed.flatten(1, 2), text, None)
            else:
                inner = gelu(self._linear(f"{name}.ff.net.0.proj", normed))
                update = self._linear(f"{name}.ff.net.2", inner)
            hidden = hidden + gate * update.view_as(hidden)
        return hidden

    def _attention(
        self, name: str, tokens: Tensor, text: Tensor | None, angles: Tensor | None
    ) -> Tensor:
        source = tokens if text is None else text
        heads = self.config.num_attention_heads
        query, key, value = (
            self._linear(f"{name}.to_{letter}", origin).view(1, origin.shape[1], heads, -1)
            for letter, origin in (("q", tokens), ("k", source), ("v", source))
        )
        query = self._rms(query, f"{name}.norm_q", eps=1e-6).to(self.dtype)
        key = self._rms(key, f"{name}.norm_k", eps=1e-6).to(self.dtype)
        if angles is not None:
            query, key = self._rotate(query, angles), self._rotate(key, angles)
        mixed = scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )
        return self._linear(f"{name}.to_out.0", mixed.transpose(1, 2).flatten(2))

    def _rotate(self, heads: Tensor, angles: Tensor) -> Tensor:
        first, second = heads.to(self.wide).chunk(2, dim=-1)
        cos, sin = angles.cos(), angles.sin()
        rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        return rotated.to(self.dtype)

    def _modulation(self, name: str, time: Tensor, offset: Tensor, parts: int) -> list[Tensor]:
        low_rank = self._linear_wide(f"{name}.linear_1", silu(time))
        total = self._linear_wide(f"{name}.linear_2", low_rank)
        total = total + offset[..., : total.shape[-1]]
        return list(total.unsqueeze(2).chunk(parts, dim=-1))

    def _rms(self, x: Tensor, name: str, eps: float) -> Tensor:
        x = x.to(self.wide)
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        return normed * self.weights[f"{name}.weight"].to(self.wide)

    def _sinusoid(self, times: Tensor) -> Tensor:
        half = self.config.width // 2
        steps = torch.arange(half, dtype=self.wide, device=times.device)
        angles = times.to(self.wide)[..., None] * torch.exp(-math.log(10_000) * steps / half)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def _angles(self, *grid: int) -> Tensor:
        axis = self.config.attention_head_dim // 6 * 2
        parts = []
        for index, dim in enumerate((self.config.attention_head_dim - 2 * axis, axis, axis)):
            exponents = (torch.arange(0, dim, 2, dtype=torch.float32) / dim).bfloat16()
            theta = 10_000 * self.config.rope_scale[index] ** (dim / (dim - 2))
            position = torch.arange(grid[index], dtype=torch.float64)
            angles = position[:, None] * theta ** -exponents.double()
            shape = [1, 1, 1, dim // 2]
            shape[index] = grid[index]
            parts.append(angles.view(shape).expand(*grid, -1))
        return torch.cat(parts, dim=-1).flatten(0, 2).unsqueeze(1).to(self.wide)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return linear(x, self.weights[f"{name}.weight"].to(self.dtype))

    def _linear_wide(self, name: str, x: Tensor) -> Tensor:
        return linear(x, self.weights[f"{name}.weight"].to(self.wide))
