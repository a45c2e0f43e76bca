"""Errors in bfloat16 beside those of NVIDIA's recipe, and what each departure of sampling moves.

    python -m benchmarks.precision [--out FILE]

Errors are against each side's own exact value. The networks are random; no checkpoint and no GPU
needed.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.correctness import precision, sampling
from benchmarks.full_size import TINY
from benchmarks.machine import describe

_SHAPES = ((2, 32, 3), (4, 32, 4), (4, 64, 4), (8, 64, 4), (4, 64, 8))
"""Heads, width of a head, layers."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare with NVIDIA's recipe and sampler.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = {}
    for heads, head_dim, layers in _SHAPES:
        config = replace(
            TINY.config,
            num_attention_heads=heads,
            attention_head_dim=head_dim,
            num_layers=layers,
            adaln_lora_dim=heads * head_dim // 4,
            text_embed_dim=heads * head_dim // 2,
        )
        name = f"{heads * head_dim} wide, {layers} layers"
        scale, device = replace(TINY, config=config), torch.device("cpu")
        with torch.inference_mode():
            results[name] = {**precision(scale, device), "sampling": sampling(scale, device)}
        print(name, json.dumps(results[name]), flush=True)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({**describe(), "widths": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
