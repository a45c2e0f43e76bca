"""The manifest of the published checkpoint: `manifest.toml`, read into values.

It says what must be there; `weights.store` looks whether it is.
"""

import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

MODEL_INDEX = "model_index.json"
"""The file in which diffusers names a pipeline's class and components."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One folder of the checkpoint. File names are relative to it.

    `weights` is the stem of the safetensors files, None for a component without tensors.
    `either` holds lists of files of which one list must be complete. Tensors whose names begin
    with an entry of `not_loaded` are skipped; the first of `prefixes` that a name begins with is
    dropped from it.
    """

    name: str
    config: str
    weights: str | None = None
    either: tuple[tuple[str, ...], ...] = ()
    optional: tuple[str, ...] = ()
    not_loaded: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Where the published checkpoint lives and what it consists of."""

    repository: str
    revision: str
    pipeline: str
    components: tuple[Component, ...]

    def download_command(self, root: Path, includes: Sequence[str] = ()) -> str:
        """The shell command that downloads the checkpoint, or the files that match, to `root`."""
        words = ["hf", "download", self.repository, "--revision", self.revision]
        words += ["--local-dir", str(root)]
        for pattern in includes:
            words += ["--include", pattern]
        return shlex.join(words)


@cache
def load_manifest() -> Manifest:
    """The manifest that ships with this package."""
    raw = tomllib.loads(resources.files("weights").joinpath("manifest.toml").read_text("utf-8"))
    return Manifest(
        repository=raw["repository"],
        revision=raw["revision"],
        pipeline=raw["pipeline"],
        components=tuple(
            Component(
                name=name,
                config=table["config"],
                weights=table.get("weights"),
                either=tuple(tuple(files) for files in table.get("either", ())),
                optional=tuple(table.get("optional", ())),
                not_loaded=tuple(table.get("not_loaded", ())),
                prefixes=tuple(table.get("prefixes", ())),
            )
            for name, table in raw["components"].items()
        ),
    )
