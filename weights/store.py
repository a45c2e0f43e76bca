"""The checkpoint on disk: which files it has, whether they are here, and which tensor is where.

A store that could be made has every file, and every header in it is sound. It reads no tensor:
that is `pipeline.load`'s work. No torch and no numpy: the API process makes one for its limits.
"""

import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from weights.checkpoint_profile import PROFILE_FILE, read_profile
from weights.digest import fingerprint
from weights.errors import CheckpointDamaged, CheckpointIncomplete, CheckpointMismatch
from weights.files import ComponentFiles, find_files, read_json_object
from weights.header import TensorInfo, read_header
from weights.manifest import MODEL_INDEX, Component, load_manifest

LOADABLE_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})
NAMED_AT_MOST = 5
"""How many tensors an error names before it counts the rest."""


class WeightStore:
    """A complete checkpoint of the published layout in the folder `root`.

    Components are named as their folders: text_encoder, tokenizer, transformer, vae, scheduler.

    Attributes:
        root: the folder.
        profile: the videos that the checkpoint makes, and its licence.
        tensors: of each component, every tensor that is loaded, by the name that it has in our
            modules. The text encoder's vision tower and output head are left out, and its names
            begin at the language model (`layers.0.self_attn.q_proj.weight`), whichever way the
            file spells them.

    Raises:
        CheckpointIncomplete: files are missing; all are listed, with the command that gets them.
        CheckpointDamaged: a file is truncated, is not what its name says, or an index and its
            shards disagree.
        CheckpointMismatch: the files belong to another pipeline, or `cosmos_serve.json` has a
            value that we do not understand.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._manifest = load_manifest()
        try:
            self._files = {c.name: find_files(root, c) for c in self._manifest.components}
        except OSError as error:
            raise CheckpointDamaged(
                f"{error.filename} cannot be read: {error.strerror}."
            ) from error
        self._refuse_if_incomplete()
        self._refuse_if_another_pipeline()
        self.profile = read_profile(root)
        self._configs = {name: read_json_object(f.config) for name, f in self._files.items()}
        self.tensors = {
            c.name: _rename(c, _read_tensors(self._files[c.name]))
            for c in self._manifest.components
        }

    @cached_property
    def digest(self) -> str:
        """A fingerprint of every file that is loaded, in hex; see `weights.digest`.

        The files are read when it is first asked for.
        """
        profile = self.root / PROFILE_FILE
        files = [self.root / MODEL_INDEX, *([profile] if profile.exists() else [])]
        for component in self._files.values():
            files += component.all()
        return fingerprint(self.root, files)

    def fingerprint(self, *components: str) -> str:
        """A fingerprint of the files of these components, in hex."""
        files = (self._files[name] for name in components)
        return fingerprint(self.root, [path for each in files for path in each.all()])

    def config(self, component: str) -> dict[str, Any]:
        """The component's configuration, as its JSON file has it."""
        return dict(self._configs[component])

    def folder(self, component: str) -> Path:
        """The component's folder."""
        return self._files[component].folder

    def match(
        self, component: str, expected: Mapping[str, tuple[int, ...]]
    ) -> dict[str, TensorInfo]:
        """The component's tensors, if they are those that `expected` names, with its shapes.

        Raises:
            CheckpointMismatch: a tensor is missing, unexpected, of another shape, or not of
                floating point; the message names it.
        """
        found = self.tensors[component]
        wrong = mismatches(found, expected)
        if wrong:
            raise CheckpointMismatch(
                f"The tensors in {self.folder(component)} are not those of the model that its "
                f"configuration describes. {wrong}"
            )
        return dict(found)

    def size(self, component: str) -> int:
        """Bytes that loading this component reads."""
        files = self._files[component]
        small = [file for file in files.all() if file not in files.weights]
        tensors = sum(info.size for info in self.tensors[component].values())
        return tensors + sum(file.stat().st_size for file in small)

    def _refuse_if_incomplete(self) -> None:
        missing = [phrase for files in self._files.values() for phrase in files.missing]
        if not (self.root / MODEL_INDEX).is_file():
            missing.insert(0, MODEL_INDEX)
        if not missing:
            return
        pull = ["cosmos-serve", "weights", "pull", str(self.root)]
        if read_profile(self.root).sampler == "trigflow":
            pull.append("--distilled")
        complaint = f"The checkpoint in {self.root} lacks {', '.join(missing)}."
        if not self.root.is_dir():
            complaint = f"There is no folder {self.root}; a checkpoint is wanted there."
        raise CheckpointIncomplete(
            f"{complaint} Accept the licence at {self._manifest.page}, then run: {shlex.join(pull)}"
        )

    def _refuse_if_another_pipeline(self) -> None:
        found = read_json_object(self.root / MODEL_INDEX).get("_class_name")
        if found != self._manifest.pipeline:
            raise CheckpointMismatch(
                f"{self.root / MODEL_INDEX} is of a {found}; we run {self._manifest.pipeline}."
            )


def _read_tensors(files: ComponentFiles) -> dict[str, TensorInfo]:
    """The tensors of all the component's files, by their names there."""
    tensors: dict[str, TensorInfo] = {}
    for path in files.weights:
        for key, info in read_header(path).items():
            if files.shards is not None:
                _check_placed(files.shards, info)
            tensors[key] = info
    for key, name in (files.shards or {}).items():
        if key not in tensors:
            raise CheckpointDamaged(f"{files.folder / name} lacks {key}, which its index promises.")
    return tensors


def _check_placed(shards: dict[str, str], info: TensorInfo) -> None:
    place = shards.get(info.key)
    if place is None:
        raise CheckpointDamaged(f"{info.file} holds {info.key}, which its index does not mention.")
    if place != info.file.name:
        raise CheckpointDamaged(
            f"{info.file} holds {info.key}, which its index places in {place}: a duplicate."
        )


def _rename(component: Component, tensors: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Leave out what is not loaded, and drop the prefix of the rest."""
    renamed: dict[str, TensorInfo] = {}
    for key, info in tensors.items():
        if key.startswith(component.not_loaded):
            continue
        prefix = next((p for p in component.prefixes if key.startswith(p)), "")
        name = key.removeprefix(prefix)
        if name in renamed:
            raise CheckpointDamaged(
                f"{info.file} holds {key}, and {renamed[name].file} holds {renamed[name].key}: "
                "both are the same tensor."
            )
        renamed[name] = info
    return renamed


def mismatches(found: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]) -> str:
    """What is wrong with the tensors that were found, by their names in our modules.

    Returns:
        sentences that name tensors which are missing, unexpected, of another shape, or not of
        floating point; nothing, if they are those of `expected`.
    """
    complaints = [
        _complaint("missing", [name for name in expected if name not in found]),
        _complaint("unexpected", [found[name].key for name in found if name not in expected]),
        _complaint(
            "of the wrong shape",
            [
                f"{info.key} (is {list(info.shape)}, want {list(expected[name])})"
                for name, info in found.items()
                if name in expected and info.shape != tuple(expected[name])
            ],
        ),
        _complaint(
            "not of floating point",
            [f"{i.key} ({i.dtype})" for i in found.values() if i.dtype not in LOADABLE_DTYPES],
        ),
    ]
    return " ".join(filter(None, complaints))


def _complaint(what: str, names: Sequence[str]) -> str:
    """One sentence that names the tensors, or nothing."""
    if not names:
        return ""
    listed = ", ".join(names[:NAMED_AT_MOST])
    more = len(names) - NAMED_AT_MOST
    rest = f" and {more} more" if more > 0 else ""
    return f"{what.capitalize()}: {listed}{rest}."
