"""The text model of the guardrail, Qwen3Guard-Gen-0.6B: where it lives, and whether it is here.

It lies in the folder `guardrail` beside a checkpoint's components.
"""

import math
from pathlib import Path

from weights.errors import CheckpointIncomplete
from weights.files import ComponentFiles, find_files
from weights.header import read_header
from weights.listing import Listing
from weights.manifest import Component, Repository

FOLDER = "guardrail"
LICENCE = "Apache License 2.0"

GUARDRAIL = Repository(
    repository="Qwen/Qwen3Guard-Gen-0.6B", commit="fada3b2f655b89601929198343c94cd2f64d93cc"
)
"""It has the files of its one component at its root."""

_COMPONENT = Component(
    name=FOLDER,
    config="config.json",
    weights="model",
    either=(
        ("tokenizer_config.json", "tokenizer.json"),
        ("tokenizer_config.json", "vocab.json", "merges.txt"),
    ),
    # The template may stand in tokenizer_config.json.
    optional=("chat_template.jinja", "added_tokens.json", "special_tokens_map.json"),
)


def guardrail_files(root: Path) -> ComponentFiles:
    """The files of the guardrail beside the checkpoint in `root`; `missing` names those not here.

    Raises:
        CheckpointDamaged: its index cannot be used, or both an index and a single file are here.
    """
    return find_files(root, _COMPONENT)


def guardrail_numbers(root: Path) -> int:
    """How many numbers the tensors of the guardrail beside the checkpoint in `root` have.

    Raises:
        CheckpointDamaged: a file is truncated, or no safetensors file.
    """
    infos = [info for file in guardrail_files(root).weights for info in read_header(file).values()]
    return sum(math.prod(info.shape) for info in infos)


def needed_files(listing: Listing) -> Listing:
    """The listing of those files of the repository that we read.

    Raises:
        CheckpointIncomplete: it lacks some.
    """
    missing = _COMPONENT.lacks({file.path for file in listing.files})
    if missing:
        raise CheckpointIncomplete(
            f"The listing of {listing.repository} at {listing.commit} lacks {', '.join(missing)}."
        )
    return Listing(
        repository=listing.repository,
        commit=listing.commit,
        files=tuple(file for file in listing.files if _COMPONENT.reads(file.path)),
    )
