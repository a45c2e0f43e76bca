"""Evaluations of a network by two and by four processes, beside those of one.

    python rank_cases.py FOLDER

Importing torch is most of a process's start, so this program imports it once and forks the ranks.
What rank 0 found is written to `FOLDER/2.json` and `FOLDER/4.json`: see `_cases`. The last case has
another rank run out of memory, whose exit code is in the file, too.
"""

import json
import os
import resource
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.denoise import denoise
from pipeline.errors import Cancelled, InvalidSpec, RankFailed
from pipeline.network.parallel import Group
from pipeline.network.transformer import CosmosTransformer, TransformerConfig
from pipeline.spec import VideoSpec

SIZES = (2, 4)
LATENT_FRAMES = (1, 3, 6, 7)
SCHEDULER = {
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "sigma_max": 200.0,
    "sigma_min": 0.01,
    "use_flow_sigmas": True,
    "use_karras_sigmas": True,
}
_HEIGHT, _WIDTH = 8, 12


def _network(heads: int) -> CosmosTransformer:
    """The same random one in every process; its softmax is peaked."""
    config = TransformerConfig(
        in_channels=17,
        out_channels=16,
        num_attention_heads=heads,
        attention_head_dim=16,
        num_layers=2,
        mlp_ratio=4.0,
        text_embed_dim=32,
        adaln_lora_dim=16,
        patch_size=(1, 2, 2),
        rope_scale=(1.0, 3.0, 3.0),
        crossattn_proj_in_channels=32,
    )
    torch.manual_seed(0)
    network = CosmosTransformer(config).requires_grad_(False).eval()
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.05)
        elif "norm_q" in name or "norm_k" in name:
            parameter.fill_(2.0)
    return network


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _prompts(network: CosmosTransformer, number: int) -> list[Tensor]:
    return [_random(512, network.config.text_embed_dim, seed=seed) for seed in range(number)]


def _distance(ours: Tensor, alone: Tensor) -> float:
    return float((ours - alone).norm() / alone.norm())


@torch.inference_mode()
def _evaluation(network: CosmosTransformer, num_frames: int, num_prompts: int) -> float:
    """The largest relative L2 distance of a velocity from that of one process."""
    latents = _random(1, 16, num_frames, _HEIGHT, _WIDTH)
    given = torch.zeros(1, num_frames)
    given[:, 0] = 1
    times = given * 1e-4 + (1 - given) * 0.6
    prompts = _prompts(network, num_prompts)
    size = (num_frames, _HEIGHT, _WIDTH)
    group = network.group
    ours = network.prepare(size, prompts)(latents, given, times)
    network.group = None
    alone = network.prepare(size, prompts)(latents, given, times)
    network.group = group
    return max(_distance(*pair) for pair in zip(ours, alone, strict=True))


def _video(network: CosmosTransformer, *, guided: bool, stop_at: int = 1000) -> Tensor:
    def on_step(index: int, _clean: Tensor | None) -> None:
        if index == stop_at:
            raise Cancelled("")

    guidance = 7.0 if guided else 1.0
    spec = VideoSpec(prompt="", seed=1, num_frames=13, guidance_scale=guidance)
    prompt, *negative = _prompts(network, spec.num_branches)
    given = _random(1, 16, 1, _HEIGHT, _WIDTH, seed=3)
    return denoise(
        network, SCHEDULER, given, prompt, negative[0] if negative else None, spec, on_step
    )


def _cases(
    network: CosmosTransformer, two_heads: CosmosTransformer, others: list[int]
) -> Iterator[tuple[str, Any]]:
    """What rank 0 finds: a name and a number, or a sentence."""
    for num_frames in LATENT_FRAMES:
        for num_prompts in (1, 2):
            name = f"evaluation, {num_frames} frames, {num_prompts} prompts"
            yield name, _evaluation(network, num_frames, num_prompts)
    group, network.group = network.group, None
    alone = {guided: _video(network, guided=guided) for guided in (True, False)}
    network.group = group
    try:
        _video(network, guided=True, stop_at=2)
    except Cancelled:
        yield "cancelled", True
    for guided, latents in alone.items():
        yield f"35 steps, guided {guided}", _distance(_video(network, guided=guided), latents)
    two_heads.group = group
    try:
        two_heads.prepare((3, _HEIGHT, _WIDTH), _prompts(two_heads, 1))
    except InvalidSpec as error:
        yield "refused", str(error)
    yield "evaluation after a refusal", _evaluation(network, 3, 2)
    # A rank that gets no more memory: what it needs for so many tokens is not in its heap.
    resource.prlimit(others[-1], resource.RLIMIT_AS, (1, 1))
    try:
        _evaluation(network, 200, 2)
    except RankFailed as error:
        yield "out of memory", repr(error.__cause__)


def _run_rank(rank: int, size: int, others: list[int], folder: Path) -> None:
    network, two_heads = _network(4), _network(2)
    group = Group(rank, size, torch.device("cpu"), folder / f"rendezvous-{size}")
    if rank > 0:
        group.follow(network)
        return
    network.group = group
    found = dict(_cases(network, two_heads, others))
    (folder / f"{size}.json").write_text(json.dumps(found))


def _fork(rank: int, size: int, others: list[int], folder: Path) -> int:
    pid = os.fork()
    if pid > 0:
        return pid
    code = 1
    try:
        _run_rank(rank, size, others, folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def main(folder: Path) -> None:
    for size in SIZES:
        others = [_fork(rank, size, [], folder) for rank in range(1, size)]
        leader = _fork(0, size, others, folder)
        codes = {pid: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in (leader, *others)}
        if codes[leader] != 0:
            sys.exit(f"Rank 0 of {size} ended with {codes[leader]}.")
        file = folder / f"{size}.json"
        found = json.loads(file.read_text())
        found["exit codes"] = [codes[pid] for pid in others]
        file.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
