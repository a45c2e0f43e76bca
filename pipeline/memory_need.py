"""What a model takes of a GPU by each memory plan, counted before it is loaded.

The counts are those of `benchmarks/memory_counts.py`, which follows every tensor of a stage; here
they are formulas of the sizes that they grow with, and `tests/model/test_memory_counts.py` holds
the two together.
"""

import math
from dataclasses import dataclass

import torch

from pipeline.memory_plan import MemoryPlan
from pipeline.network.layers import WIDENED_BYTES
from pipeline.network.transformer import CosmosTransformer, TransformerConfig
from pipeline.spec import latent_frames
from pipeline.text import MAX_TOKENS
from weights.store import WeightStore

SPARE = 2**30
"""Left free: workspaces of cuDNN and cuBLAS, and what the allocator cannot use."""

_DECODE_PLANES = 34
"""What decoding takes: planes of the output's height and width with the decoder's base channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """Bytes: of the weights, and of what each stage holds beside them.

    `text_layer` is one layer of the text model, `text_projection` what the transformer has of the
    text stage.
    """

    text_model: int
    text_layer: int
    text_projection: int
    transformer: int
    vae: int
    text_stage: int
    denoise_stage: int
    decode_stage: int

    def under(self, plan: MemoryPlan) -> int:
        """The most that a video takes by this plan."""
        stages = max(self.denoise_stage, self.decode_stage)
        stay = self.transformer + self.vae
        match plan:
            case MemoryPlan.RESIDENT:
                return self.text_model + stay + max(self.text_stage, stages)
            case MemoryPlan.OFFLOAD:
                return stay + max(self.text_model + self.text_stage, stages)
            case MemoryPlan.STREAM:
                return max(
                    2 * self.text_layer + self.text_projection + self.text_stage,
                    self.transformer + self.denoise_stage,
                    self.vae + self.decode_stage,
                )

    def choose(self, free: int) -> MemoryPlan:
        """The first plan that leaves `SPARE` of `free` bytes; if none does, the last one."""
        fitting = (plan for plan in MemoryPlan if self.under(plan) + SPARE <= free)
        return next(fitting, MemoryPlan.STREAM)


def memory_need(store: WeightStore, dtype: torch.dtype) -> MemoryNeed:
    """What a checkpoint and its longest video take, with large products in `dtype`."""
    profile, size = store.profile, dtype.itemsize
    config = TransformerConfig.from_json(store.config("transformer"))
    text = {name: math.prod(info.shape) for name, info in store.tensors["text_encoder"].items()}
    transformer = {
        name: math.prod(info.shape) * CosmosTransformer.parameter_dtype(name, dtype).itemsize
        for name, info in store.tensors["transformer"].items()
    }
    return MemoryNeed(
        text_model=size * sum(text.values()),
        text_layer=size * sum(n for name, n in text.items() if name.startswith("layers.0.")),
        text_projection=sum(n for name, n in transformer.items() if name.startswith("crossattn")),
        transformer=sum(transformer.values()),
        vae=size * sum(math.prod(info.shape) for info in store.tensors["vae"].values()),
        text_stage=text_bytes(config.crossattn_proj_in_channels, size),
        denoise_stage=denoise_bytes(
            config, latent_frames(profile.max_frames), profile.width, profile.height, dtype
        ),
        decode_stage=decode_bytes(
            store.config("vae").get("base_dim", 96), profile.width, profile.height, size
        ),
    )


def text_bytes(features: int, size: int) -> int:
    """Encoding a prompt of which the transformer reads so many features a token.

    They are collected, normalised in float32, joined and rounded; a layer's own is 2 % of it.
    """
    return int(1.02 * MAX_TOKENS * features * (2 * size + 4 + 4))


def denoise_bytes(
    config: TransformerConfig, num_latent_frames: int, width: int, height: int, dtype: torch.dtype
) -> int:
    """A guided step: the streams that both branches share and of one, and a sub-layer's own."""
    size, wide = dtype.itemsize, torch.promote_types(dtype, torch.float32).itemsize
    tokens = num_latent_frames * (width // 16) * (height // 16)
    number = tokens * config.width
    streams = 2 * number * (wide + size)
    attention = number * 4 * size  # queries, keys, values and what comes of them
    widened = min(WIDENED_BYTES, int(number * config.mlp_ratio) * size)
    feed_forward = number * size + 2 * widened
    texts = 2 * 2 * config.num_layers * MAX_TOKENS * config.width * size
    rotary = tokens * config.attention_head_dim * wide
    latents = 16 * tokens * 4 * config.in_channels * 4
    return streams + max(attention, feed_forward) + texts + rotary + latents


def decode_bytes(base_dim: int, width: int, height: int, size: int) -> int:
    """Decoding latent frames one after the other, by `pipeline.vae_decoder`."""
    return _DECODE_PLANES * base_dim * width * height * size
