"""What each GPU does of one video that several share: operations, traffic and memory, by count.

    python -m benchmarks.parallel_counts [--out FILE]

The transformer runs at full size on torch's `meta` device, once as each rank; what stands for
torch.distributed counts the bytes that the rank would send. The seconds are no measurement: they
are the counts at the rates of docs/performance.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.full_size import FULL
from benchmarks.live_bytes import LiveBytes
from benchmarks.memory_counts import BF16, CONFIG, META, fused, transformer
from pipeline.network import parallel
from pipeline.network.attention import attend_native
from pipeline.network.parallel import Group
from pipeline.text import MAX_TOKENS

NUM_GPUS = (1, 2, 4, 8)
SIZE = (FULL.latent_frames, *FULL.latent_size)

ATTENTION, PRODUCTS = 650e12, 680e12
"""Operations a second, of an H200: the middle line of docs/performance.md's table."""
REST_S = 0.175
"""Of a step on one GPU, beside attention and products."""
EFFICIENCY = {1: 1.0, 2: 1.0, 4: 0.95, 8: 0.92}
"""Of sharing tokens and heads, as published for other models."""
BESIDE_THE_LOOP_S = 5.0
"""Text, first frame, noise and decoding, which rank 0 does alone."""


class Traffic:
    """Stands for torch.distributed in one rank, and counts the bytes that go over the wire."""

    def __init__(self) -> None:
        self.exchanged = 0
        self.broadcast_bytes = 0
        self.gathered = 0

    def init_process_group(self, *_arguments: Any, **_options: Any) -> None: ...

    def new_group(self, *_arguments: Any, **_options: Any) -> None: ...

    def all_reduce(self, *_arguments: Any, **_options: Any) -> None: ...

    def broadcast(self, tensor: Tensor, **_options: Any) -> None:
        if tensor.device == META:
            self.broadcast_bytes += tensor.nbytes

    def all_to_all_single(self, _received: Tensor, tensor: Tensor, **_options: Any) -> None:
        self.exchanged += tensor.nbytes - tensor[0].nbytes

    def gather(self, tensor: Tensor, *_arguments: Any, **_options: Any) -> None:
        self.gathered += tensor.nbytes


def count(num_gpus: int, *, guided: bool, rank: int = 0) -> dict[str, Any]:
    """One step of one rank."""
    network, traffic = transformer(), Traffic()
    prompts = [torch.empty(MAX_TOKENS, CONFIG.text_embed_dim, device=META, dtype=BF16)]
    prompts *= 2 if guided else 1
    latents = torch.empty(1, CONFIG.in_channels - 1, *SIZE, device=META)
    given = torch.empty(1, SIZE[0], device=META)
    with torch.inference_mode(), patch.object(parallel, "dist", traffic):
        if num_gpus > 1:
            network.group = Group(rank, num_gpus, META, Path("rendezvous"))
        evaluate = network.prepare(SIZE, prompts)
        before = traffic.broadcast_bytes
        with fused(), LiveBytes(META) as bytes_:
            bytes_.know(*network.parameters(), latents, given)
            evaluate(latents, given, given)
        a_step = {
            "sent to the ranks of its prompt, GB": traffic.exchanged / 1e9,
            "sent by rank 0 to all, GB": (traffic.broadcast_bytes - before) / 1e9,
            "sent to rank 0, GB": traffic.gathered / 1e9,
            "activations, GiB": bytes_.peak / 2**30,
        }
        network.attend = attend_native
        # The counter sees attention only where it is made of plain matrix products.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            evaluate(latents, given, given)
    by_operation = counter.get_flop_counts()["Global"]
    attention = sum(n for name, n in by_operation.items() if "bmm" in str(name))
    products = counter.get_total_flops() - attention
    return {
        "attention, TFLOP": attention / 1e12,
        "products, TFLOP": products / 1e12,
        **a_step,
    }


def predicted(counts: dict[str, Any], num_gpus: int) -> dict[str, float]:
    """Seconds of a guided step and of the default video, by rates that were not measured here."""
    share = 1 / max(1, num_gpus)
    step_s = (
        counts["attention, TFLOP"] * 1e12 / ATTENTION
        + counts["products, TFLOP"] * 1e12 / PRODUCTS
        + REST_S * share
    ) / EFFICIENCY[num_gpus]
    loop_s = FULL.steps * step_s
    return {"step, s": step_s, "loop, s": loop_s, "video, s": loop_s + BESIDE_THE_LOOP_S}


def counts() -> dict[str, Any]:
    """All of it, of the default video: with guidance, and of one evaluation a step without."""
    result: dict[str, Any] = {}
    for num_gpus in NUM_GPUS:
        guided = count(num_gpus, guided=True)
        last = count(num_gpus, guided=True, rank=num_gpus - 1)
        assert guided == last, "every rank does the same"
        result[f"{num_gpus} GPUs"] = {
            "a guided step, each rank": guided,
            "a step without guidance, each rank": count(num_gpus, guided=False),
            "predicted, not measured": predicted(guided, num_gpus),
        }
    return result


def rounded(value: Any) -> Any:
    """Numbers to four digits."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return float(f"{value:.4g}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Count what each of several GPUs does.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/parallel-counts.json"))
    options = parser.parse_args()
    result = rounded(counts())
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
