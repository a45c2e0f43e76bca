"""What a checkpoint is for: its size, length, guardrail and licence, from `cosmos_serve.json`.

The published checkpoint has no such file; the defaults describe it.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from weights.errors import CheckpointMismatch
from weights.files import read_json_object

PROFILE_FILE = "cosmos_serve.json"

Guardrail = Literal["required", "none"]
Sampler = Literal["unipc", "trigflow"]
Dtype = Literal["bfloat16", "float32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointProfile:
    """The videos that a checkpoint makes, and the terms on which it may be used.

    width, height: pixels, multiples of 16.
    max_frames: the longest video.
    guardrail: whether its licence asks for one.
    sampler: `trigflow` for the distilled checkpoint.
    dtype: in which a GPU computes the large products. A CPU takes float32.
    """

    width: int = 1280
    height: int = 704
    max_frames: int = 93
    guardrail: Guardrail = "required"
    sampler: Sampler = "unipc"
    dtype: Dtype = "bfloat16"
    licence: str = "NVIDIA Open Model License"


def read_profile(root: Path) -> CheckpointProfile:
    """The profile of the checkpoint in `root`; the defaults where it has no such file.

    Raises:
        CheckpointDamaged: the file is not a JSON object.
        CheckpointMismatch: it has a key that we do not know or a value that is out of range.
    """
    path = root / PROFILE_FILE
    if not path.exists():
        return CheckpointProfile()
    values = read_json_object(path)
    known = [field.name for field in fields(CheckpointProfile)]
    for key, value in values.items():
        if key not in known:
            raise CheckpointMismatch(
                f"{path} has the unknown key {key!r}; it may have {', '.join(known)}."
            )
        _check(path, key, value)
    return CheckpointProfile(**values)


def _check(path: Path, key: str, value: Any) -> None:
    match key:
        case "width" | "height":
            fits, want = _is_positive(value) and value % 16 == 0, "a positive multiple of 16"
        case "max_frames":
            fits, want = _is_positive(value), "a positive whole number"
        case "guardrail":
            fits, want = value in get_args(Guardrail), '"required" or "none"'
        case "sampler":
            fits, want = value in get_args(Sampler), '"unipc" or "trigflow"'
        case "dtype":
            fits, want = value in get_args(Dtype), '"bfloat16" or "float32"'
        case _:
            fits, want = isinstance(value, str), "a string"
    if not fits:
        raise CheckpointMismatch(f"{path}: {key} is {value!r}; {want} is wanted.")


def _is_positive(value: Any) -> bool:
    return type(value) is int and value > 0
