"""Read which tensors a safetensors file holds, without reading the tensors.

The format: the length of the header (8 bytes, little-endian), the header (JSON), the data.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from weights.errors import CheckpointDamaged

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself."""

BYTES_PER_ELEMENT = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor is: the file, its name in there, its shape and safetensors' dtype name."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * BYTES_PER_ELEMENT[self.dtype]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one file, by their names in it.

    Raises:
        CheckpointDamaged: the file is cut short, is not a safetensors file, or names a tensor
            twice; the message names the file and what is wrong with it.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = header_length(file, path, size)
            text = file.read(length)
    except OSError as error:
        raise CheckpointDamaged(f"{path} cannot be read: {error.strerror}.") from error
    return _parse(path, text, size)


def header_length(file: BinaryIO, path: Path, size: int) -> int:
    """The length of the header of a file of `size` bytes; the file is left at its first byte.

    Raises:
        CheckpointDamaged: there is no header of that length.
    """
    start = file.read(LENGTH_BYTES)
    if start == b"version ":
        raise CheckpointDamaged(
            f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` there, or "
            "download the checkpoint without git."
        )
    if len(start) < LENGTH_BYTES:
        raise CheckpointDamaged(f"{path} is truncated: it has only {size:,} bytes.")
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointDamaged(f"{path} is not a safetensors file: its header makes no sense.")
    if length > size - LENGTH_BYTES:
        raise _truncated(path, size, LENGTH_BYTES + length)
    return length


def _parse(path: Path, text: bytes, size: int) -> dict[str, TensorInfo]:
    try:
        entries = json.loads(text, object_pairs_hook=_object_without_duplicates)
    except _DuplicateKey as error:
        raise CheckpointDamaged(f"{path} holds {error} twice.") from error
    except (ValueError, RecursionError) as error:
        raise _nonsense(path, "its header is not JSON") from error
    if not isinstance(entries, dict):
        raise _nonsense(path, "its header is not a JSON object")
    entries.pop("__metadata__", None)
    tensors = {}
    spans = []
    for key, entry in entries.items():
        begin, end, info = _tensor(path, key, entry)
        tensors[key] = info
        spans.append((begin, end))
    _check_spans(path, spans, start=LENGTH_BYTES + len(text), size=size)
    return tensors


def _tensor(path: Path, key: str, entry: Any) -> tuple[int, int, TensorInfo]:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end]} if all(
            type(number) is int and number >= 0 for number in (*shape, begin, end)
        ):
            pass
        case _:
            raise _nonsense(path, f"its entry for {key} is not a dtype, a shape and two offsets")
    if dtype not in BYTES_PER_ELEMENT:
        raise _nonsense(path, f"the dtype of {key} is {dtype}, which we do not know")
    info = TensorInfo(path, key, tuple(shape), dtype)
    if end - begin != info.size:
        raise _nonsense(path, f"the size of {key} does not fit its shape {list(shape)}")
    return begin, end, info


def _check_spans(path: Path, spans: list[tuple[int, int]], start: int, size: int) -> None:
    """The tensors must fill the file from `start` to its end, one after the other."""
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise _nonsense(path, "its tensors overlap or leave gaps")
        position = end
    if start + position > size:
        raise _truncated(path, size, start + position)
    if start + position < size:
        raise _nonsense(path, f"{size - start - position:,} bytes follow its last tensor")


class _DuplicateKey(ValueError):
    pass


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _DuplicateKey(key)
        found[key] = value
    return found


def _truncated(path: Path, size: int, wanted: int) -> CheckpointDamaged:
    return CheckpointDamaged(
        f"{path} is truncated: it has {size:,} bytes and its header asks for {wanted:,}. "
        "Download it again."
    )


def _nonsense(path: Path, reason: str) -> CheckpointDamaged:
    return CheckpointDamaged(f"{path} is not a sound safetensors file: {reason}.")
