"""How near to NVIDIA: the kernels, the error in bfloat16, and the two departures of the sampler.

The cases and the reference are those of the tests.
"""

import sys
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from benchmarks import full_size
from benchmarks.full_size import Scale, StepInputs
from pipeline.denoise import Sampling, denoise
from pipeline.network.transformer import CosmosTransformer
from pipeline.spec import VideoSpec
from pipeline.text import MAX_TOKENS

_TESTS = str(Path(__file__).parent.parent / "tests" / "support")
_NUM_FRAMES = 3
"""Latent frames: float32 attention over a whole video takes minutes."""

_NUM_SEEDS = 3


def kernels(scale: Scale, device: torch.device) -> dict[str, Any]:
    """Each fused kernel at the real width, against float64."""
    if device.type != "cuda":
        return {"skipped": "the kernels run on a GPU; the tests run them by an interpreter"}
    sys.path.insert(0, _TESTS)
    from kernel_cases import all_cases

    config = scale.config
    heads = (config.num_attention_heads, config.attention_head_dim)
    cases = all_cases(device, (config.width,), (heads,))
    worst = max(case["fused"] / case["plain"] for case in cases.values())
    return {"cases": cases, "worst fused / plain": worst}


def precision(scale: Scale, device: torch.device) -> dict[str, Any]:
    """The relative L2 error in bfloat16, here and by NVIDIA's recipe, each to its own float32."""
    sys.path.insert(0, _TESTS)
    from nvidia_recipe import Recipe

    exact = full_size.random_transformer(scale, device, torch.float32)
    weights = full_size.published_weights(exact)
    rounded = {
        name: full_size.random_transformer(scale, device, torch.bfloat16, residual_dtype=dtype)
        for name, dtype in (("ours", torch.float32), ("bfloat16 residual", torch.bfloat16))
    }
    errors: dict[str, list[float]] = {name: [] for name in (*rounded, "recipe")}
    for seed in range(_NUM_SEEDS):
        inputs, text = _short_inputs(scale, device, seed)
        recipes = [
            Recipe(scale.config, weights, dtype).velocity(
                inputs.latents, inputs.given, inputs.times, text
            )
            for dtype in (torch.bfloat16, torch.float32)
        ]
        errors["recipe"].append(_distance(*recipes))
        expected = _velocity(exact, inputs, text)
        for name, network in rounded.items():
            errors[name].append(_distance(_velocity(network, inputs, text), expected))
    means = {name: mean(values) for name, values in errors.items()}
    return {"error": means, **{f"{n} / recipe": means[n] / means["recipe"] for n in rounded}}


def sampling(scale: Scale, device: torch.device) -> dict[str, float]:
    """How far the latents of one video move by each departure from NVIDIA's sampler, relative L2.

    Float32, guidance 7: 35 evaluations beside the 36 of NVIDIA's 35 steps, and with those 36 exact
    time beside times in whole thousandths.
    """
    network = full_size.random_transformer(scale, device, torch.float32)

    def latents(seed: int, steps: int, sampling: Sampling) -> Tensor:
        inputs, prompt = _short_inputs(scale, device, seed)
        _, negative_prompt = _short_inputs(scale, device, seed + _NUM_SEEDS)
        spec = VideoSpec(
            prompt="", seed=seed, num_frames=scale.num_frames, num_inference_steps=steps
        )
        given = inputs.latents[:, :, :1]
        return denoise(
            network, full_size.SCHEDULER, given, prompt, negative_prompt, spec, lambda *_: None,
            sampling,
        )  # fmt: skip

    moved: dict[str, list[float]] = {"35 steps": [], "exact time": []}
    for seed in range(_NUM_SEEDS):
        exact = latents(seed, 36, Sampling())
        moved["35 steps"].append(_distance(latents(seed, 35, Sampling()), exact))
        whole = latents(seed, 36, Sampling(integer_time=True))
        moved["exact time"].append(_distance(exact, whole))
    return {name: mean(values) for name, values in moved.items()}


def _short_inputs(scale: Scale, device: torch.device, seed: int) -> tuple[StepInputs, Tensor]:
    inputs = StepInputs.random(_NUM_FRAMES, scale.latent_size, device, seed=seed)
    generator = torch.Generator(device).manual_seed(seed)
    shape = (MAX_TOKENS, scale.config.text_embed_dim)
    return inputs, torch.randn(shape, device=device, generator=generator).bfloat16().float()


def _velocity(network: CosmosTransformer, inputs: StepInputs, text: Tensor) -> Tensor:
    rotary = network.rotary_tables(*inputs.latents.shape[2:])
    shared = network.forward_shared(inputs.latents, inputs.given, inputs.times, rotary)
    return network.forward_branch(shared, network.text_keys_values(text))


def _distance(rounded: Tensor, exact: Tensor) -> float:
    return float((rounded.double() - exact.double()).norm() / exact.double().norm())
