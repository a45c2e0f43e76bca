"""A cheap fingerprint of a checkpoint: tells two checkpoints apart, in about a second.

It is no proof that every byte is right: of a large file only samples are read.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from weights.errors import CheckpointDamaged
from weights.header import LENGTH_BYTES, header_length

WHOLE_FILE_BYTES = 64 * 2**20
NUM_SAMPLES = 64
SAMPLE_BYTES = 64 * 2**10


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """SHA-256, in hex, over the files' names, sizes and contents, whatever their order.

    Files up to 64 MiB, and all that are not safetensors, are read whole. Of a larger one the
    header is read, which holds every name, dtype and shape, and 64 blocks of 64 KiB spread
    evenly over the data, the first and the last block among them.

    Raises:
        CheckpointDamaged: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        name = path.relative_to(root).as_posix().encode()
        digest.update(len(name).to_bytes(8, "little") + name)
        try:
            _add_file(digest, path)
        except OSError as error:
            raise CheckpointDamaged(f"{path} cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def _add_file(digest: "hashlib._Hash", path: Path) -> None:
    size = path.stat().st_size
    digest.update(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        if size > WHOLE_FILE_BYTES and path.suffix == ".safetensors":
            _add_samples(digest, file, path, size)
        else:
            while block := file.read(2**20):
                digest.update(block)


def _add_samples(digest: "hashlib._Hash", file: BinaryIO, path: Path, size: int) -> None:
    length = header_length(file, path, size)
    digest.update(file.read(length))
    first = LENGTH_BYTES + length
    last = max(first, size - SAMPLE_BYTES)
    for sample in range(NUM_SAMPLES):
        file.seek(first + (last - first) * sample // (NUM_SAMPLES - 1))
        digest.update(file.read(SAMPLE_BYTES))
