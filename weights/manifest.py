"""The manifest of the published checkpoint: `manifest.toml`, read into values.

It says what must be there; `weights.store` looks whether it is.
"""

import re
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib import resources

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

    @property
    def folder(self) -> str:
        """How the paths of its files begin."""
        return f"{self.name}/"

    def reads(self, name: str) -> bool:
        """Whether a file of that name is loaded."""
        if name in (self.config, *self.optional) or any(name in files for files in self.either):
            return True
        if self.weights is None:
            return False
        shards = rf"{re.escape(self.weights)}(-\d+-of-\d+)?\.safetensors(\.index\.json)?"
        return re.fullmatch(shards, name) is not None

    def lacks(self, names: Collection[str]) -> list[str]:
        """Files that must be there beside those of these names."""
        missing = [] if self.config in names else [self.config]
        if self.either and not any(set(files) <= set(names) for files in self.either):
            missing.append(self.either[0][0])
        if self.weights is not None:
            single = f"{self.weights}.safetensors"
            if single not in names and f"{single}.index.json" not in names:
                missing.append(single)
        return missing


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalFile:
    """A file of the repository that has a transformer in NVIDIA's own layout, at a commit."""

    commit: str
    path: str

    @property
    def folder(self) -> str:
        """The folder of the repository that it is in."""
        return self.path.rpartition("/")[0]

    def __str__(self) -> str:
        return f"{self.path} at {self.commit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository of the hub, at a commit."""

    repository: str
    commit: str

    @property
    def page(self) -> str:
        """Where its licence is accepted."""
        return f"https://huggingface.co/{self.repository}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(Repository):
    """Where the published checkpoint lives and what it consists of.

    distilled: the transformer that is published in NVIDIA's own layout alone.
    """

    pipeline: str
    distilled: OriginalFile
    components: tuple[Component, ...]


@cache
def load_manifest() -> Manifest:
    """The manifest that ships with this package."""
    raw = tomllib.loads(resources.files("weights").joinpath("manifest.toml").read_text("utf-8"))
    return Manifest(
        repository=raw["repository"],
        commit=raw["commit"],
        pipeline=raw["pipeline"],
        distilled=OriginalFile(**raw["distilled"]),
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
