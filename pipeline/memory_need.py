"""What a model takes of a GPU by each memory plan, counted before it is loaded.

The counts are those of `benchmarks/memory_counts.py`, which follows every tensor of a stage; here
they are formulas of the sizes that they grow with, and `tests/model/test_memory_counts.py` holds
the two together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from pipeline.memory_plan import MemoryChoice, MemoryPlan
from pipeline.network.layers import WIDENED_BYTES
from pipeline.network.transformer import CosmosTransformer, TransformerConfig
from pipeline.spec import latent_frames
from pipeline.text import MAX_TOKENS
from weights.guardrail import guardrail_numbers
from weights.store import WeightStore

SPARE = 2**30
"""Left free: workspaces of cuDNN and cuBLAS, and what the allocator cannot use."""

_DECODE_PLANES, _ENCODE_PLANES = 34, 34.7
"""Decoding, and encoding a clip: planes of the output's size with the VAE's base channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """Bytes: of the weights, and of what each stage holds beside them.

    `text_layer` is one layer of the text model, `text_projection` what the transformer has of the
    text stage, `text_judge` the guardrail's model, if it has one. `other_transformers` are those
    beside the largest one, `transformer`.
    """

    text_model: int
    text_layer: int
    text_projection: int
    transformer: int
    vae: int
    text_stage: int
    denoise_stage: int
    encode_stage: int
    decode_stage: int
    other_transformers: int = 0
    text_judge: int = 0

    def under(self, plan: MemoryPlan, *, swaps: bool = False) -> int:
        """The most that a video takes by this plan, with one transformer at a time if it swaps."""
        of_vae = max(self.encode_stage, self.decode_stage)
        stages = max(self.denoise_stage, of_vae)
        stay, text_stage = self.transformer + self.vae, self.text_stage
        streamed = 2 * self.text_layer
        if swaps:
            # The projection may be another transformer's than the one that is there.
            text_stage += self.text_projection
        else:
            stay += self.other_transformers
        match plan:
            case MemoryPlan.RESIDENT:
                return self.text_judge + self.text_model + stay + max(text_stage, stages)
            case MemoryPlan.OFFLOAD:
                return stay + max(self.text_judge, streamed + text_stage, stages)
            case MemoryPlan.STREAM:
                return max(
                    self.text_judge,
                    streamed + self.text_projection + self.text_stage,
                    self.transformer + self.denoise_stage,
                    self.vae + of_vae,
                )

    def choose(self, free: int) -> MemoryPlan:
        """The first plan that leaves `SPARE` of `free` bytes; if none does, the last one."""
        swaps = self.other_transformers > 0
        fitting = (plan for plan in MemoryPlan if self.under(plan, swaps=swaps) + SPARE <= free)
        return next(fitting, MemoryPlan.STREAM)

    def swaps(self, plan: MemoryPlan, free: int) -> bool:
        """Whether transformers have to take turns on the device to leave `SPARE` by this plan."""
        return self.other_transformers > 0 and self.under(plan) + SPARE > free


def memory_need(
    stores: Sequence[WeightStore], dtype: torch.dtype, *, has_judge: bool = False
) -> MemoryNeed:
    """What checkpoints and their longest video take, with large products in `dtype`.

    Args:
        stores: of one text model and one VAE, which are counted once.
        has_judge: whether the guardrail beside the first one is used, too.
    """
    needs = sorted((_need(store, dtype) for store in stores), key=lambda need: need.transformer)
    others = sum(need.transformer for need in needs[:-1])
    judge = dtype.itemsize * guardrail_numbers(stores[0].root) if has_judge else 0
    return replace(needs[-1], other_transformers=others, text_judge=judge)


def _need(store: WeightStore, dtype: torch.dtype) -> MemoryNeed:
    profile, size = store.profile, dtype.itemsize
    frame = (store.config("vae").get("base_dim", 96), profile.width, profile.height, size)
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
        encode_stage=encode_bytes(*frame),
        decode_stage=decode_bytes(*frame),
    )


@dataclass(frozen=True, slots=True)
class Placing:
    """A memory plan, why it is that, in a sentence, and whether transformers take turns."""

    plan: MemoryPlan
    reason: str
    swaps: bool = False


def choose_placing(
    stores: Sequence[WeightStore],
    device: torch.device,
    dtype: torch.dtype,
    memory: MemoryChoice,
    *,
    has_judge: bool = False,
) -> Placing:
    """How checkpoints over one text model and one VAE are placed, for their longest video."""
    if device.type != "cuda":
        if memory != "auto":
            return Placing(MemoryPlan(memory), "It was asked for.")
        return Placing(MemoryPlan.RESIDENT, "The device has the host's memory.")
    free, _total = torch.cuda.mem_get_info(device)
    need = memory_need(stores, dtype, has_judge=has_judge)
    if memory != "auto":
        plan, reason = MemoryPlan(memory), "It was asked for."
    else:
        plan = need.choose(free)
        needs = ", ".join(f"{each.value} {need.under(each) / 2**30:.1f} GiB" for each in MemoryPlan)
        max_frames = stores[0].profile.max_frames
        reason = (
            f"The GPU has {free / 2**30:.1f} GiB free, and {max_frames} frames need, "
            f"with {SPARE / 2**30:.0f} GiB to spare: {needs}. The plan is {plan.value}."
        )
    if len(stores) == 1 or plan is MemoryPlan.STREAM:
        return Placing(plan, reason)
    swaps = need.swaps(plan, free)
    where = "take turns on the GPU" if swaps else "all stay on the GPU"
    return Placing(plan, f"{reason} The {len(stores)} transformers {where}.", swaps)


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


def encode_bytes(base_dim: int, width: int, height: int, size: int) -> int:
    """Encoding the five frames of a clip: the first, and then four at once."""
    return int(_ENCODE_PLANES * base_dim * width * height * size)


def decode_bytes(base_dim: int, width: int, height: int, size: int) -> int:
    """Decoding latent frames one after the other, by `pipeline.vae_decoder`."""
    return _DECODE_PLANES * base_dim * width * height * size
