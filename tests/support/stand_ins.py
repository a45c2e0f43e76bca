"""Stand-in checkpoints for the tests, made once and kept under `.cache`.

Making one imports diffusers and transformers; the next run finds it there. A change to anything in
`weights/`, or to the arguments, makes another.
"""

import hashlib
from pathlib import Path

from paths import ROOT

from weights.checkpoint_profile import Sampler
from weights.errors import StandInRefused
from weights.stand_in.checkpoint import DEFAULT_LAYOUT, Layout, Weights, write_stand_in

CACHE = ROOT / ".cache" / "stand-ins"


def stand_in(
    *,
    width: int = 96,
    height: int = 64,
    seed: int = 0,
    layout: Layout = DEFAULT_LAYOUT,
    weights: Weights = "lively",
    sampler: Sampler = "unipc",
) -> Path:
    """The folder of a stand-in made with these arguments. Do not write to it."""
    sources = sorted(file for file in (ROOT / "weights").rglob("*.*") if file.suffix != ".pyc")
    key = repr((width, height, seed, layout, weights, sampler)).encode()
    digest = hashlib.sha256(key + b"".join(source.read_bytes() for source in sources))
    root = CACHE / digest.hexdigest()[:16]
    if not root.exists():
        try:
            write_stand_in(
                root,
                width=width,
                height=height,
                seed=seed,
                layout=layout,
                weights=weights,
                sampler=sampler,
            )
        except (OSError, StandInRefused):
            # Another test process was quicker: its folder is the same.
            if not root.exists():
                raise
    return root
