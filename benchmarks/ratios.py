"""A GPU's figures against each other: diffusers, the floor, and the ceilings of the same run."""

from typing import Any

from benchmarks.full_size import FULL, Scale
from benchmarks.timing import Report
from pipeline.text import MAX_TOKENS
from pipeline.work import StepCost

NVIDIA_PUBLISHED_S = 221.7
"""Predict2-2B, the same shapes, 93 frames at 720p on one H200 SXM, by NVIDIA's own table."""

AFTER = "ceilings after the job"

# How often a block has each product, and how many square matrices of the width it is.
_PRODUCTS = {
    "queries, keys, values": (1, 3),
    "square of the width": (3, 1),
    "feed-forward in": (1, 4),
    "feed-forward out": (1, 4),
}


def ratios(report: Report, scale: Scale) -> dict[str, Any]:
    """What can be said from the sections that ran."""
    result: dict[str, Any] = {}
    step = report.get("step", "fused", "median_s") or report.get("step", "plain", "median_s")
    theirs = {
        "diffusers": report.get("diffusers", "eager", "median_s"),
        "diffusers compiled": report.get("diffusers", "compiled", "median_s"),
    }
    for name, seconds in theirs.items():
        if step and seconds:
            result[f"step / {name}"] = step / seconds
    square = report.get("ceilings", f"square {scale.matrix}", "tflops")
    operations = step_operations(scale)
    if step and square:
        result["floor of a step, s"] = sum(operations.values()) * 1e-12 / square
        result["step / floor"] = step / result["floor of a step, s"]
    ceiling = step_ceiling_s(report, "ceilings", operations)
    if step and ceiling:
        result["ceiling of a step, s"] = ceiling
        result["step: share of the ceilings"] = ceiling / step
    bandwidth = report.get("ceilings", "copy", "gb_s")
    if bandwidth:
        # The elementwise kernels of a step, if they moved their bytes as a copy does.
        result["traffic of a step, s"] = sum(step_bytes(scale).values()) * 1e-9 / bandwidth
    loop, warm = report.get("job", "denoise_s"), step_ceiling_s(report, AFTER, operations)
    if loop and warm:
        result["ceiling of a step after the job, s"] = warm
        result["loop: share of the ceilings"] = scale.steps * warm / loop
    whole = report.get("job", "all_s")
    if whole and scale is FULL:
        result["whole video / NVIDIA's published"] = whole / NVIDIA_PUBLISHED_S
    return result


def step_operations(scale: Scale) -> dict[str, float]:
    """Of one guided step: two evaluations, less the first self-attention, which they share."""
    config, tokens = scale.config, scale.tokens
    cost = StepCost.from_shape(
        width=config.width,
        mlp_ratio=config.mlp_ratio,
        layers=config.num_layers,
        text_tokens=MAX_TOKENS,
        frame_tokens=tokens // scale.latent_frames,
    )
    shared_products = 2 * tokens * config.width * 4 * config.width
    return {
        "attention": (2 * config.num_layers - 1) * 4 * tokens**2 * config.width,
        "products": 2 * cost.linear * scale.latent_frames - shared_products,
    }


def step_bytes(scale: Scale) -> dict[str, float]:
    """What one guided step reads and writes beside its products and attentions, in bfloat16.

    The stream is float32, and the first self-attention is shared, as in `step_operations`.
    """
    layers, numbers = scale.config.num_layers, scale.tokens * scale.config.width
    return {
        "residual": (2 * 3 * layers - 1) * (4 + 2 + 4 + 2) * numbers,
        "heads": (2 * 3 * layers - 2) * (2 + 2) * numbers,
        "GELU": 2 * layers * (2 + 2) * scale.config.mlp_ratio * numbers,
    }


def step_ceiling_s(report: Report, section: str, operations: dict[str, float]) -> float | None:
    """A step's seconds, if all its work went at the rates that this section measured."""
    attention = report.get(section, "attention", "tflops")
    products = product_tflops(report, section)
    if attention is None or products is None:
        return None
    seconds = operations["attention"] / attention + operations["products"] / products
    return float(seconds * 1e-12)


def product_tflops(report: Report, section: str) -> float | None:
    """The rate of a block's products together, each as often as it has it."""
    seconds = work = 0.0
    for name, (times, squares) in _PRODUCTS.items():
        rate = report.get(section, name, "tflops")
        if rate is None:
            return None
        work += times * squares
        seconds += times * squares / rate
    return work / seconds
