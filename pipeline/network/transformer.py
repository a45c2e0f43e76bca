"""The diffusion transformer of Cosmos-Predict2.5, over the published state dict.

The function is NVIDIA's network; attribute names follow the published tensors, and the letters in
shapes are those of `pipeline.network.layers`. Savings that change nothing are built in: modulation
is computed once per frame and not per token, text keys and values once per request, and what comes
before the first look at the text once for both guidance branches. Nothing is cached in the module:
tables and text live in values that the caller holds for one request.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.network.attention import Attend, attend_native
from pipeline.network.kernels.residual import Residual, modulate
from pipeline.network.layers import (
    Block,
    BlockModulation,
    KeysValues,
    Modulation,
    ModulationMLP,
    PatchEmbed,
    RotaryTables,
    TimeEmbed,
    TimeEmbedding,
    island_dtype,
    rotary_tables,
)

if TYPE_CHECKING:
    from pipeline.network.parallel import Group, Team

Evaluate = Callable[[Tensor, Tensor, Tensor], list[Tensor]]
"""Latents, which of their frames are given, and times, as `CosmosTransformer.forward_shared` takes
them -> the velocity for each prompt of one request, as `forward_branch` returns it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """The shape of the network, read from the checkpoint's `transformer/config.json`."""

    in_channels: int
    out_channels: int
    num_attention_heads: int
    attention_head_dim: int
    num_layers: int
    mlp_ratio: float
    text_embed_dim: int
    adaln_lora_dim: int
    patch_size: tuple[int, int, int]
    rope_scale: tuple[float, float, float]
    crossattn_proj_in_channels: int

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TransformerConfig":
        """Read the checkpoint's configuration.

        Raises:
            ValueError: it describes a network other than the one built here.
        """
        for name, wanted in _REQUIRED_SETTINGS.items():
            if values.get(name) != wanted:
                raise ValueError(
                    f"transformer/config.json has {name} = {values.get(name)!r}; "
                    f"Cosmos-Predict2.5 has {wanted!r}."
                )
        if values["patch_size"][0] != 1:
            raise ValueError(
                f"transformer/config.json has patch_size = {values['patch_size']}; "
                "its first number, latent frames a token, must be 1."
            )
        sizes = {name: values[name] for name in cls.__dataclass_fields__}
        sizes["patch_size"] = tuple(values["patch_size"])
        sizes["rope_scale"] = tuple(values["rope_scale"])
        return cls(**sizes)


_REQUIRED_SETTINGS: Mapping[str, Any] = {
    "concat_padding_mask": True,
    "extra_pos_embed_type": None,
    "use_crossattn_projection": True,
}


@dataclass(frozen=True, slots=True)
class SharedState:
    """What both guidance branches of one step have in common.

    `stream` is the residual stream after the first block's self-attention, with the copy that its
    attention to the text reads; `grid` is (T, rows, columns) in tokens. `attend_video` is the
    self-attention of all blocks. With a team, `stream` is this rank's share.
    """

    stream: Residual
    modulations: tuple[BlockModulation, ...]
    final_modulation: Modulation
    rotary: RotaryTables
    grid: tuple[int, int, int]
    attend_video: Attend


class CosmosTransformer(nn.Module):
    """Predicts the velocity of a noisy latent video, given its first frame and a prompt.

    Args:
        config: the shape of the network.
        qk_norm_eps: NVIDIA's network has 1e-6, diffusers 1e-5.
        rope_exponent_dtype: NVIDIA's loader rounds the rotary exponents to bfloat16, and the
            weights were trained so; diffusers keeps float32.
        residual_dtype: the least precision of the sum that runs through all blocks. Rounding it to
            bfloat16 after each addition is the largest part of what a bfloat16 network errs.

    `group` is set in a process that shares the network's work with others: see
    `pipeline.network.parallel`.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        qk_norm_eps: float = 1e-6,
        rope_exponent_dtype: torch.dtype = torch.bfloat16,
        residual_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.config = config
        self.rope_exponent_dtype = rope_exponent_dtype
        self._residual_dtype = residual_dtype
        self.attend: Attend = attend_native
        self.group: Group | None = None
        width = config.width
        cells = math.prod(config.patch_size)
        # The latent, the mask of given frames, and a padding mask that is always zero here.
        self.patch_embed = PatchEmbed((config.in_channels + 1) * cells, width)
        self.crossattn_proj = nn.Sequential(
            nn.Linear(config.crossattn_proj_in_channels, config.text_embed_dim), nn.GELU()
        )
        self.time_embed = TimeEmbed(width)
        self.transformer_blocks = nn.ModuleList(
            Block(
                width=width,
                text_width=config.text_embed_dim,
                heads=config.num_attention_heads,
                inner=int(width * config.mlp_ratio),
                rank=config.adaln_lora_dim,
                qk_norm_eps=qk_norm_eps,
            )
            for _ in range(config.num_layers)
        )
        self.norm_out = ModulationMLP(width, config.adaln_lora_dim, parts=2)
        self.proj_out = nn.Linear(width, cells * config.out_channels, bias=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the large matrix products."""
        return self._blocks[0].ff.dtype

    @property
    def residual_dtype(self) -> torch.dtype:
        """The dtype of the sum that runs through all blocks."""
        return torch.promote_types(self.dtype, self._residual_dtype)

    @property
    def device(self) -> torch.device:
        return self.patch_embed.proj.weight.device

    @staticmethod
    def parameter_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
        """The dtype that the parameter `name` has in a module that computes in `dtype`."""
        parts = name.split(".")
        is_island = parts[0] in {"patch_embed", "time_embed", "norm_out", "proj_out"} or any(
            part.startswith("norm") for part in parts
        )
        return island_dtype(dtype) if is_island else dtype

    @staticmethod
    def published_names(name: str) -> tuple[str, ...]:
        """The published tensors that the parameter `name` is made of, one below the other."""
        if "to_qkv" in name:
            return tuple(name.replace("to_qkv", part) for part in ("to_q", "to_k", "to_v"))
        return (name,)

    # -- once per request -------------------------------------------------------------------

    def rotary_tables(self, num_frames: int, height: int, width: int) -> RotaryTables:
        """The rotary tables for a latent of [num_frames, height, width] cells."""
        _, patch_h, patch_w = self.config.patch_size
        return rotary_tables(
            (num_frames, height // patch_h, width // patch_w),
            head_dim=self.config.attention_head_dim,
            scale=self.config.rope_scale,
            exponent_dtype=self.rope_exponent_dtype,
            device=self.device,
            dtype=island_dtype(self.dtype),
        )

    def project_text(self, embeddings: Tensor) -> Tensor:
        """[L, crossattn_proj_in_channels] of the text model -> [L, text_embed_dim]."""
        projected: Tensor = self.crossattn_proj(embeddings.to(self.dtype))
        return projected

    def text_keys_values(self, projected: Tensor) -> tuple[KeysValues, ...]:
        """One prompt, [L, text_embed_dim], as every block's cross-attention sees it."""
        text = projected.to(self.device, self.dtype)[None]
        return tuple(block.attn2.keys_values(text) for block in self._blocks)

    def prepare(self, size: tuple[int, int, int], prompts: Sequence[Tensor]) -> Evaluate:
        """What evaluates the network for one request, alone or with the other ranks of a group.

        Args:
            size: [T, height, width] of the latents.
            prompts: each [L, text_embed_dim], projected.
        """
        if self.group is not None:
            return self.group.prepare(self, size, prompts)
        rotary = self.rotary_tables(*size)
        texts = [self.text_keys_values(prompt) for prompt in prompts]

        def evaluate(latents: Tensor, given: Tensor, times: Tensor) -> list[Tensor]:
            shared = self.forward_shared(latents, given, times, rotary)
            return [self.forward_branch(shared, text) for text in texts]

        return evaluate

    # -- once per step ----------------------------------------------------------------------

    def forward_shared(
        self,
        latents: Tensor,
        given: Tensor,
        times: Tensor,
        rotary: RotaryTables,
        team: "Team | None" = None,
    ) -> SharedState:
        """Everything of one step that does not depend on the prompt.

        Args:
            latents: [B, in_channels - 1, T, height, width], given frames in place, in any dtype.
            given: [B, T], 1 for a frame that is given and 0 for one to be made.
            times: [B, T], the noise level of each frame, 0 to 1.
            rotary: the tables for this size; with a team, of this rank's tokens.
            team: what ranks evaluate this together, if there are several.
        """
        patch = self.config.patch_size
        grid = (latents.shape[2], latents.shape[3] // patch[1], latents.shape[4] // patch[2])
        masks = given[:, None, :, None, None].expand(-1, 1, -1, *latents.shape[3:])
        cells = torch.cat([latents, masks, torch.zeros_like(masks)], dim=1)
        patches, attend_video = patchify(cells, patch), self.attend
        if team is not None:
            patches, attend_video = team.part(patches, dim=2), team.sharing_heads(self.attend)
        hidden = self.patch_embed(patches).to(self.residual_dtype)
        embedded: TimeEmbedding = self.time_embed(times)
        modulations = tuple(block.modulation(embedded) for block in self._blocks)
        first = modulations[0].self_attention
        stream = Residual(hidden, modulate(hidden, first.shift, first.scale, self.dtype))
        stream = self._blocks[0].attend_self(stream, modulations[0], rotary, attend_video)
        final = self.norm_out(embedded)
        return SharedState(stream, modulations, final, rotary, grid, attend_video)

    def forward_branch(self, shared: SharedState, text: Sequence[KeysValues]) -> Tensor:
        """The velocity for one prompt, [B, out_channels, T, height, width], at least float32."""
        return unpatchify(self.forward_patches(shared, text), shared.grid, self.config.patch_size)

    def forward_patches(self, shared: SharedState, text: Sequence[KeysValues]) -> Tensor:
        """That, as patches: [B, T, N, cells of a patch * out_channels]."""
        followings = [modulation.self_attention for modulation in shared.modulations[1:]]
        followings.append(shared.final_modulation)
        first, *others = zip(self._blocks, shared.modulations, followings, text, strict=True)
        block, modulation, following, keys_values = first
        stream = block.attend_text_and_feed_forward(
            shared.stream, modulation, following, keys_values, self.attend, is_shared=True
        )
        for block, modulation, following, keys_values in others:
            stream = block(
                stream,
                modulation,
                following,
                shared.rotary,
                keys_values,
                shared.attend_video,
                self.attend,
            )
        patches: Tensor = self.proj_out(stream.normed)
        return patches

    @property
    def _blocks(self) -> "Sequence[Block]":
        return self.transformer_blocks  # type: ignore[return-value]  # a ModuleList has no item type


def patchify(cells: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """[B, C, T, height, width] -> [B, T, N, C * cells of a patch]."""
    batch, channels, frames, height, width = cells.shape
    _, patch_h, patch_w = patch
    split = cells.reshape(
        batch, channels, frames, height // patch_h, patch_h, width // patch_w, patch_w
    )
    # [B, C, T, rows, patch_h, columns, patch_w] -> [B, T, rows, columns, C, patch_h, patch_w]
    return split.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(2, 3)


def unpatchify(patches: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """[B, T, N, cells of a patch * C] -> [B, C, T, height, width].

    The published output projection puts the channel last, unlike the input: that is no mistake.
    """
    _, patch_h, patch_w = patch
    split = patches.reshape(patches.shape[0], *grid, patch_h, patch_w, -1)
    # [B, T, rows, columns, patch_h, patch_w, C] -> [B, C, T, rows, patch_h, columns, patch_w]
    return split.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)
