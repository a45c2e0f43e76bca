"""Several checkpoints that are served together: transformers over one text model and one VAE."""

import hashlib
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from weights.errors import CheckpointIncomplete, CheckpointMismatch
from weights.store import WeightStore

SHARED = ("text_encoder", "tokenizer", "vae")
"""The components that are loaded once, from the first checkpoint."""


def folders_in(named: str) -> tuple[Path, ...]:
    """The folders that a setting names, separated by commas."""
    return tuple(Path(name.strip()) for name in named.split(",") if name.strip())


def open_checkpoints(named: str) -> tuple[WeightStore, ...]:
    """The checkpoints in folders that are separated by commas.

    Raises:
        CheckpointError: one of them cannot be used; see `WeightStore`.
        CheckpointMismatch: two are sampled alike, make videos of different sizes, or have another
            text model or VAE.
    """
    stores = tuple(map(WeightStore, folders_in(named)))
    if not stores:
        raise CheckpointIncomplete(f"{named!r} names no folder of a checkpoint.")
    for one, other in combinations(stores, 2):
        _check_together(one, other)
    return stores


def digest_of(stores: Sequence[WeightStore]) -> str:
    """A fingerprint of all the checkpoints, in hex; of one alone its own."""
    if len(stores) == 1:
        return stores[0].digest
    return hashlib.sha256("".join(store.digest for store in stores).encode()).hexdigest()


def _check_together(one: WeightStore, other: WeightStore) -> None:
    pair = f"{one.root} and {other.root}"
    ours, theirs = one.profile, other.profile
    if ours.sampler == theirs.sampler:
        raise CheckpointMismatch(
            f"{pair} are both sampled by {ours.sampler}, so a request could not say which one it "
            "is for: serve one of them."
        )
    if (ours.width, ours.height, ours.max_frames) != (
        theirs.width,
        theirs.height,
        theirs.max_frames,
    ):
        raise CheckpointMismatch(f"{pair} make videos of different sizes or lengths.")
    if one.fingerprint(*SHARED) != other.fingerprint(*SHARED):
        raise CheckpointMismatch(
            f"{pair} do not have the same text model, tokenizer and VAE, which are loaded once for "
            "both."
        )
