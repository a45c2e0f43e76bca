"""What it saves on a CPU that oneDNN computes all convolutions of the VAE, and how exact that is.

    python -m benchmarks.vae_cpu [--out FILE] [--tiny]

Weights are random: neither time nor rounding depends on them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from benchmarks.machine import describe
from benchmarks.timing import timed
from pipeline.causal_convolution import convolve_by_onednn
from weights.stand_in import vae as stand_in

CPU = torch.device("cpu")
PUBLISHED: dict[str, Any] = {"z_dim": 16}
"""Wan's own widths, which are diffusers' defaults: 96 channels and more."""


def measure(config: dict[str, Any], width: int, height: int, latent_frames: int) -> dict[str, Any]:
    """Seconds for one encoded and for all decoded frames, and how far the results differ."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**config).eval()
    pixels = torch.rand(1, 3, 1, height, width) * 2 - 1
    latents = torch.randn(1, 16, latent_frames, height // 8, width // 8)
    results: dict[str, Any] = {}
    outputs = []
    for name in ("torch's choice", "oneDNN"):
        if name == "oneDNN":
            convolve_by_onednn(vae)
        results[name] = {
            "encode": timed(lambda: vae.encode(pixels), CPU, runs=3),
            "decode": timed(lambda: vae.decode(latents), CPU, runs=3),
        }
        outputs.append((vae.encode(pixels).latent_dist.mode(), vae.decode(latents).sample))
    results["largest_difference"] = {
        stage: float((ours - theirs).abs().max() / theirs.abs().max())
        for stage, theirs, ours in zip(("encode", "decode"), *outputs, strict=True)
    }
    return {"size": [width, height], "latent_frames": latent_frames, **results}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the VAE with and without oneDNN.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tiny", action="store_true", help="only rehearse, at a small size")
    options = parser.parse_args()
    size = (32, 32, 2) if options.tiny else (320, 176, 7)
    results: dict[str, Any] = {**describe(), "threads": torch.get_num_threads()}
    with torch.inference_mode():
        results["stand-in"] = measure(stand_in.config(), *size)
        if not options.tiny:
            results["published widths"] = measure(PUBLISHED, 96, 64, 3)
    print(json.dumps(results, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
