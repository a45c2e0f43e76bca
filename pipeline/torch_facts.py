"""What torch says of itself, as JSON. Asked in its own process, because a broken CUDA hangs."""

import json
from importlib.util import find_spec
from typing import Any

import torch

from pipeline.libraries import cudnn_problem


def main() -> None:
    """Print the arguments of `server.doctor.facts.Torch`."""
    print(json.dumps(_facts()))


def _facts() -> dict[str, Any]:
    facts: dict[str, Any] = {
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


def _gpu(index: int) -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info(index)
    return {
        "name": torch.cuda.get_device_name(index),
        "capability": torch.cuda.get_device_capability(index),
        "total": total,
        "free": free,
    }
