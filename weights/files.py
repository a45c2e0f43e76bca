"""Find the files of one component, and name those that are not there.

Tensors are read from safetensors files only: the other formats can run code when loaded.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weights.errors import CheckpointDamaged
from weights.manifest import Component

REFUSED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentFiles:
    """The files of a component that are loaded, and a phrase for each that is missing.

    `shards` is the index's map from tensor to file name, None where one file holds all.
    """

    folder: Path
    config: Path
    others: tuple[Path, ...] = ()
    weights: tuple[Path, ...] = ()
    shards: dict[str, str] | None = None
    missing: tuple[str, ...] = ()

    def all(self) -> tuple[Path, ...]:
        """Every file that is loaded."""
        return (self.config, *self.others, *self.weights)


def find_files(root: Path, component: Component) -> ComponentFiles:
    """Look for the component's files under `root`.

    Raises:
        CheckpointDamaged: its index cannot be used, or both an index and a single file are here.
    """
    folder = root / component.name
    others, missing = _other_files(folder, component)
    config = folder / component.config
    if not config.is_file():
        missing.insert(0, f"{component.name}/{component.config}")
    if component.weights is None:
        return ComponentFiles(
            folder=folder, config=config, others=tuple(others), missing=tuple(missing)
        )
    single = folder / f"{component.weights}.safetensors"
    index = folder / f"{component.weights}.safetensors.index.json"
    shards = None
    weights = [single]
    if index.is_file():
        if single.is_file():
            raise CheckpointDamaged(
                f"{folder} holds both {single.name} and {index.name}; remove one."
            )
        others.append(index)
        shards = read_index(index)
        weights = [folder / name for name in sorted(set(shards.values()))]
        missing += [f"{component.name}/{file.name}" for file in weights if not file.is_file()]
    elif not single.is_file():
        missing.append(f"{component.name}/{single.name}{_refused_note(folder)}")
    return ComponentFiles(
        folder=folder,
        config=config,
        others=tuple(others),
        weights=tuple(weights),
        shards=shards,
        missing=tuple(missing),
    )


def _other_files(folder: Path, component: Component) -> tuple[list[Path], list[str]]:
    """The files beside the configuration and the tensors, and what is missing of them."""
    found = [folder / name for name in component.optional if (folder / name).is_file()]
    missing: list[str] = []
    if component.either:
        here = [files for files in component.either if all((folder / f).is_file() for f in files)]
        found += [folder / name for files in here for name in files]
        if not here:
            missing.append(f"{component.name}/{component.either[0][0]}")
    return found, missing


def _refused_note(folder: Path) -> str:
    refused = sorted(f.name for f in folder.glob("*") if f.suffix in REFUSED_SUFFIXES)
    if not refused:
        return ""
    return f" ({refused[0]} is there, but only safetensors files are loaded)"


def read_index(path: Path) -> dict[str, str]:
    """The map from tensor to shard of a `*.safetensors.index.json`.

    Raises:
        CheckpointDamaged: it is not such a map, or it names a file outside its folder.
    """
    shards = read_json_object(path).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointDamaged(f"{path} has no weight_map from tensors to files.")
    for key, name in shards.items():
        is_file = isinstance(name, str) and name.endswith(".safetensors")
        if not is_file or "/" in name or "\\" in name:
            raise CheckpointDamaged(
                f"{path} places {key} in {name!r}; a safetensors file beside it is wanted."
            )
    return shards


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointDamaged: the file cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CheckpointDamaged(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointDamaged(f"{path} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointDamaged(f"{path} does not hold a JSON object.")
    return value
