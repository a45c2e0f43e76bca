"""What torch says of itself, as JSON. Asked in its own process, because a broken CUDA hangs."""

import json
from importlib.util import find_spec
from typing import Any

import torch

from pipeline.libraries import cudnn_problem
from pipeline.memory_need import SPARE, memory_need
from pipeline.memory_plan import MemoryPlan
from pipeline.network.attention import BACKENDS
from weights.checkpoints import open_checkpoints
from weights.errors import CheckpointError

_PINNED_BYTES = 64 * 2**20
"""A try: more than the usual limit of locked memory, where that counts at all."""


def main(weights: str | None) -> None:
    """Print the arguments of `server.doctor.facts.Torch`; `weights` is a checkpoint's folder."""
    print(json.dumps(_facts(weights)))


def _facts(weights: str | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "backends": list(BACKENDS),
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "has_triton": find_spec("triton") is not None,
        "has_fa3": find_spec("fa3_fwd_interface") is not None,
    }
    if torch.version.cuda is None:
        return facts
    facts["architectures"] = torch.cuda.get_arch_list()
    facts["cudnn_problem"] = cudnn_problem()
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # it has no annotations
        facts["gpus"] = [_gpu(index) for index in range(torch.cuda.device_count())]
    except (RuntimeError, AssertionError) as error:
        facts["problem"] = str(error).splitlines()[0]
        return facts
    if facts["gpus"]:
        facts["pinning_problem"] = _pinning_problem()
        facts["needs"] = _needs(weights)
    return facts


def _pinning_problem() -> str | None:
    try:
        torch.empty(_PINNED_BYTES, dtype=torch.uint8, pin_memory=True)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def _needs(weights: str | None) -> dict[str, int]:
    """The bytes that each memory plan wants free, of a checkpoint that can be read."""
    try:
        need = memory_need(open_checkpoints(weights or ""), torch.bfloat16)
    except CheckpointError:
        return {}
    swaps = need.other_transformers > 0
    return {plan.value: need.under(plan, swaps=swaps) + SPARE for plan in MemoryPlan}


def _gpu(index: int) -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info(index)
    return {
        "name": torch.cuda.get_device_name(index),
        "capability": torch.cuda.get_device_capability(index),
        "total": total,
        "free": free,
    }
