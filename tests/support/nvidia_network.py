"""NVIDIA's transformer as a plain reference, its modules named and nested as in its `.pt` files.

Written after the structure of `minimal_v4_dit.py` of NVIDIA's cosmos-predict2.5, and sharing no
code with it, nor with the pipeline or the table of the conversion. A batch is one video and is left
out: [C, T, height, width] are cells of the latent, [T, rows, columns, D] are tokens.
"""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from weights.stand_in.random_weights import draw


def write_original(path: Path, config: Mapping[str, Any], dtype: torch.dtype) -> "Network":
    """Write a file as NVIDIA's are, with random weights; the network that they are of."""
    network = Network(config)
    draw(network, seed=5)
    network = network.to(dtype)
    state = {f"net.{name}": value for name, value in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return network.double().requires_grad_(False)


class Norm(nn.RMSNorm):
    """Transformer Engine's norms have a state of their own, which is saved beside the weights."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def get_extra_state(self) -> io.BytesIO:
        return io.BytesIO(b"of Transformer Engine")


class Patches(nn.Module):
    def forward(self, cells: Tensor) -> Tensor:
        channels, frames, height, width = cells.shape
        split = cells.reshape(channels, frames, height // 2, 2, width // 2, 2)
        return split.permute(1, 2, 4, 0, 3, 5).flatten(3)


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(Patches(), nn.Linear(channels * 4, width, bias=False))


class RotaryEmbedding(nn.Module):
    """Its constants are saved, and rounded to bfloat16 where NVIDIA's program loads them."""

    seq: Tensor
    dim_spatial_range: Tensor
    dim_temporal_range: Tensor

    def __init__(self, head: int, scale: tuple[float, float, float]) -> None:
        super().__init__()
        self._scale = scale
        self._spatial = head // 6 * 2
        self._temporal = head - 2 * self._spatial
        self.register_buffer("seq", torch.arange(240.0))
        for name, size in (("spatial", self._spatial), ("temporal", self._temporal)):
            self.register_buffer(f"dim_{name}_range", torch.arange(0, size, 2).float() / size)

    def angles(self, grid: tuple[int, int, int]) -> Tensor:
        """[T * rows * columns, 1, half a head]"""
        parts = []
        sizes = (self._temporal, self._spatial, self._spatial)
        for axis, (size, scale) in enumerate(zip(sizes, self._scale, strict=True)):
            exponents = self.dim_spatial_range if axis else self.dim_temporal_range
            theta = 10_000 * scale ** (size / (size - 2))
            frequencies = theta ** -exponents.bfloat16().double()
            shape = [1, 1, 1, len(frequencies)]
            shape[axis] = grid[axis]
            steps = torch.arange(grid[axis]).double()
            parts.append((steps[:, None] * frequencies).view(shape).expand(*grid, -1))
        return torch.cat(parts, dim=-1).flatten(0, 2).unsqueeze(1)


class Attention(nn.Module):
    def __init__(self, width: int, source: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.q_norm = Norm(width // heads)
        self.k_proj = nn.Linear(source, width, bias=False)
        self.k_norm = Norm(width // heads)
        self.v_proj = nn.Linear(source, width, bias=False)
        self.output_proj = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor, source: Tensor, angles: Tensor | None) -> Tensor:
        """[N, D] and [M, source] -> [N, D]"""
        query = self.q_norm(self._split(self.q_proj(tokens)))
        key = self.k_norm(self._split(self.k_proj(source)))
        value = self._split(self.v_proj(source))
        if angles is not None:
            query, key = _rotate(query, angles), _rotate(key, angles)
        mixed = functional.scaled_dot_product_attention(
            query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        )
        out: Tensor = self.output_proj(mixed.transpose(0, 1).flatten(1))
        return out

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(len(tokens), self._heads, -1)


def _rotate(heads: Tensor, angles: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class FeedForward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(width, inner, bias=False)
        self.layer2 = nn.Linear(inner, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.layer2(functional.gelu(self.layer1(tokens)))
        return out


def _modulation(width: int, rank: int, parts: int) -> nn.Sequential:
    return nn.Sequential(
        nn.SiLU(), nn.Linear(width, rank, bias=False), nn.Linear(rank, parts * width, bias=False)
    )


def _normed(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Block(nn.Module):
    def __init__(self, width: int, text: int, heads: int, inner: int, rank: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, width, heads)
        self.cross_attn = Attention(width, text, heads)
        self.mlp = FeedForward(width, inner)
        self.adaln_modulation_self_attn = _modulation(width, rank, 3)
        self.adaln_modulation_cross_attn = _modulation(width, rank, 3)
        self.adaln_modulation_mlp = _modulation(width, rank, 3)

    def forward(
        self, tokens: Tensor, time: Tensor, offset: Tensor, text: Tensor, angles: Tensor
    ) -> Tensor:
        for name in ("self_attn", "cross_attn", "mlp"):
            modulation = self.get_submodule(f"adaln_modulation_{name}")(time) + offset
            shift, scale, gate = modulation[:, None, None].chunk(3, dim=-1)
            normed = _normed(tokens, shift, scale).flatten(0, 2)
            match name:
                case "self_attn":
                    update = self.self_attn(normed, normed, angles)
                case "cross_attn":
                    update = self.cross_attn(normed, text, None)
                case _:
                    update = self.mlp(normed)
            tokens = tokens + gate * update.view_as(tokens)
        return tokens


class Sinusoid(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self._half = width // 2

    def forward(self, times: Tensor) -> Tensor:
        """[T] -> [T, D]"""
        steps = torch.arange(self._half, dtype=times.dtype)
        angles = times[:, None] * torch.exp(-math.log(10_000) * steps / self._half)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeMLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, width, bias=False)
        self.linear_2 = nn.Linear(width, 3 * width, bias=False)

    def forward(self, sinusoid: Tensor) -> tuple[Tensor, Tensor]:
        return sinusoid, self.linear_2(functional.silu(self.linear_1(sinusoid)))


class FinalLayer(nn.Module):
    def __init__(self, width: int, channels: int, rank: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 4 * channels, bias=False)
        self.adaln_modulation = _modulation(width, rank, 2)

    def forward(self, tokens: Tensor, time: Tensor, offset: Tensor) -> Tensor:
        modulation = self.adaln_modulation(time) + offset[:, : 2 * time.shape[1]]
        shift, scale = modulation[:, None, None].chunk(2, dim=-1)
        out: Tensor = self.linear(_normed(tokens, shift, scale))
        return out


class Network(nn.Module):
    """The network that a `transformer/config.json` describes."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        heads, head = config["num_attention_heads"], config["attention_head_dim"]
        width, text = heads * head, config["text_embed_dim"]
        rank, inner = config["adaln_lora_dim"], int(heads * head * config["mlp_ratio"])
        for name in ("video_sample_counter", "image_sample_counter", "iteration"):
            self.register_buffer(f"accum_{name}", torch.tensor(7))
        self.register_buffer("accum_train_in_hours", torch.tensor(7.0))
        self.x_embedder = PatchEmbed(config["in_channels"] + 1, width)
        self.pos_embedder = RotaryEmbedding(head, config["rope_scale"])
        self.t_embedder = nn.Sequential(Sinusoid(width), TimeMLP(width))
        self.blocks = nn.ModuleList(
            Block(width, text, heads, inner, rank) for _ in range(config["num_layers"])
        )
        self.final_layer = FinalLayer(width, config["out_channels"], rank)
        self.t_embedding_norm = Norm(width)
        self.crossattn_proj = nn.Sequential(
            nn.Linear(config["crossattn_proj_in_channels"], text), nn.GELU()
        )

    def forward(self, latents: Tensor, given: Tensor, times: Tensor, text: Tensor) -> Tensor:
        """[16, T, height, width], [T], [T] and [L, states of the text model] -> as the first."""
        masks = given[None, :, None, None].expand(1, -1, *latents.shape[2:])
        cells = torch.cat([latents, masks, torch.zeros_like(masks)])
        tokens = self.x_embedder.proj(cells)
        sinusoid, offset = self.t_embedder(times)
        time = self.t_embedding_norm(sinusoid)
        projected = self.crossattn_proj(text)
        grid = (tokens.shape[0], tokens.shape[1], tokens.shape[2])
        angles = self.pos_embedder.angles(grid)
        for block in self.blocks:
            tokens = block(tokens, time, offset, projected, angles)
        patches: Tensor = self.final_layer(tokens, time, offset)
        # The channel is last here, and first in the patches that come in.
        split = patches.reshape(*grid, 2, 2, -1).permute(5, 0, 1, 3, 2, 4)
        return split.flatten(4).flatten(2, 3)
