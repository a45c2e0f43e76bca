"""The processes of a pipeline on several devices: rank 0 starts the others and watches them.

Rank 0 has the whole pipeline. The others have the transformer alone, and evaluate it with rank 0:
see `pipeline.network.parallel`. They are rank 0's children and in its process group, so they end
with it. torch is imported by what is called, and not with this module.
"""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.child_process import python_command
from pipeline.errors import PipelineError
from weights.errors import CheckpointError
from weights.store import WeightStore

if TYPE_CHECKING:
    from pipeline.generate import VideoPipeline

OnEnd = Callable[[str], None]
"""Hears, in a thread of its own, how a rank ended that should not have."""


class CannotShare(PipelineError):
    """So many devices cannot work on one video of this checkpoint."""

    code = "cannot_share"


def check_ranks(store: WeightStore, num_ranks: int) -> None:
    """See that so many ranks can share the videos of a checkpoint.

    Raises:
        CannotShare: they cannot; the message says what does not divide.
    """
    from pipeline.load import tokens_of_frame
    from pipeline.network.parallel import indivisible
    from pipeline.network.transformer import TransformerConfig

    problem: str | None
    if num_ranks % 2:
        problem = "one half works on the prompt, the other half on the negative prompt"
    else:
        config = TransformerConfig.from_json(store.config("transformer"))
        problem = indivisible(config, tokens_of_frame(store), num_ranks // 2)
    if problem is not None:
        raise CannotShare(f"{num_ranks} devices cannot work on one video: {problem}.")


def start_ranks(
    pipeline: "VideoPipeline", store: WeightStore, num_ranks: int, folder: Path, on_end: OnEnd
) -> None:
    """Start the ranks but the first, which is this process, and connect their transformers.

    Returns when all of them have loaded. They end with the thread that calls this.

    Args:
        pipeline: on the first device, with the checkpoint of `store`.
        folder: is empty, and only this process and its children write to it.
    """
    from pipeline.network.parallel import Group

    rendezvous, device = folder / "rendezvous", pipeline.placement.device
    for rank in range(1, num_ranks):
        values = {
            "rank": rank,
            "num_ranks": num_ranks,
            "device": device.type,
            "weights": str(store.root),
            "attention": pipeline.attention.name,
            "rendezvous": str(rendezvous),
        }
        start_rank(rank, python_command(__name__, values), on_end)
    pipeline.transformer.group = Group(0, num_ranks, device, rendezvous)


def start_rank(rank: int, command: list[str], on_end: OnEnd) -> subprocess.Popen[bytes]:
    """Start one rank, and watch it."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def watch() -> None:
        code = process.wait()
        # A rank that has lost rank 0 ends by itself, with 0.
        if code != 0:
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            on_end(f"The process of rank {rank} ended with {how}, and the others with it.")

    threading.Thread(target=watch, name=f"rank {rank}", daemon=True).start()
    return process


def main(
    rank: int, num_ranks: int, device: str, weights: str, attention: str, rendezvous: str
) -> None:
    """The process of a rank other than the first, on the device of its number."""
    import torch

    from pipeline.load import Loader, default_dtype, load_transformer
    from pipeline.memory_plan import MemoryPlan
    from pipeline.network.parallel import Group

    if device == "cuda":
        torch.cuda.set_device(rank)
    target = torch.device(device)
    try:
        store = WeightStore(Path(weights))
        loader = Loader(
            store,
            target,
            default_dtype(target, store),
            lambda _text, _fraction: None,
            MemoryPlan.RESIDENT,
        )
        transformer, kernels, _ = load_transformer(loader, attention)
    except (PipelineError, CheckpointError) as error:
        sys.exit(f"Rank {rank} cannot load the transformer: {error}")
    if kernels.problem is not None:
        print(f"Rank {rank}: {kernels.problem}", file=sys.stderr)
    Group(rank, num_ranks, target, Path(rendezvous)).follow(transformer)
