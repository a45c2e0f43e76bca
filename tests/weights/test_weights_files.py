"""Shards, headers and indexes that are broken: each fault has its own sentence."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import (
    VAE_TENSORS,
    frame,
    write_checkpoint,
    write_json,
    write_shards,
    write_tensors,
)

from weights.digest import NUM_SAMPLES, SAMPLE_BYTES, WHOLE_FILE_BYTES, fingerprint
from weights.errors import CheckpointDamaged, CheckpointIncomplete
from weights.header import read_header
from weights.store import WeightStore

STEM = "diffusion_pytorch_model"
WEIGHT = {"quant_conv.weight": VAE_TENSORS["quant_conv.weight"]}
BIAS = {"quant_conv.bias": VAE_TENSORS["quant_conv.bias"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkpoint whose VAE is in two shards."""
    root = write_checkpoint(tmp_path / "checkpoint")
    (root / "vae" / f"{STEM}.safetensors").unlink()
    write_shards(root / "vae", STEM, [WEIGHT, BIAS])
    return root


def shard(root: Path, number: int) -> Path:
    return root / "vae" / f"{STEM}-0000{number}-of-00002.safetensors"


def change_index(root: Path, **places: str) -> None:
    path = root / "vae" / f"{STEM}.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= places
    write_json(path, index)


def test_a_shard_that_is_missing_is_listed(root: Path) -> None:
    shard(root, 2).unlink()

    with pytest.raises(CheckpointIncomplete, match=rf"lacks vae/{shard(root, 2).name}\."):
        WeightStore(root)


def test_a_tensor_that_is_not_in_its_shard_is_named(root: Path) -> None:
    change_index(root, extra=shard(root, 1).name)

    with pytest.raises(CheckpointDamaged, match=r"00001-of-00002\.safetensors lacks extra, which"):
        WeightStore(root)


def test_a_tensor_that_the_index_does_not_mention_is_named(root: Path) -> None:
    write_tensors(shard(root, 1), WEIGHT | {"extra": (1,)})

    with pytest.raises(CheckpointDamaged, match="holds extra, which its index does not mention"):
        WeightStore(root)


def test_a_tensor_in_two_shards_is_a_duplicate(root: Path) -> None:
    write_tensors(shard(root, 1), WEIGHT | BIAS)

    with pytest.raises(CheckpointDamaged, match=r"places in .*00002-of-.*: a duplicate"):
        WeightStore(root)


def test_an_index_beside_a_single_file_is_ambiguous(root: Path) -> None:
    write_tensors(root / "vae" / f"{STEM}.safetensors", VAE_TENSORS)

    with pytest.raises(CheckpointDamaged, match="holds both"):
        WeightStore(root)


@pytest.mark.parametrize(
    "place", ["../../secret.safetensors", "/etc/secret.safetensors", "a\\b.safetensors", "x.bin"]
)
def test_an_index_reaches_only_safetensors_files_beside_it(root: Path, place: str) -> None:
    change_index(root, extra=place)

    with pytest.raises(CheckpointDamaged, match=re.escape(f"places extra in {place!r}")):
        WeightStore(root)


def test_a_place_that_the_system_refuses_is_named(root: Path) -> None:
    change_index(root, extra="x" * 300 + ".safetensors")

    with pytest.raises(CheckpointDamaged, match=r"x\.safetensors cannot be read: File name too"):
        WeightStore(root)


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {}}])
def test_an_index_without_a_map_is_refused(root: Path, index: dict[str, Any]) -> None:
    write_json(root / "vae" / f"{STEM}.safetensors.index.json", index)

    with pytest.raises(CheckpointDamaged, match="has no weight_map"):
        WeightStore(root)


def test_an_index_with_a_file_that_is_no_name_is_refused(root: Path) -> None:
    index = {"weight_map": {"extra": 1}}
    write_json(root / "vae" / f"{STEM}.safetensors.index.json", index)

    with pytest.raises(CheckpointDamaged, match="places extra in 1"):
        WeightStore(root)


def test_a_header_gives_names_shapes_and_dtypes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, VAE_TENSORS)

    header = read_header(path)

    assert {key: info.shape for key, info in header.items()} == VAE_TENSORS
    assert header["quant_conv.bias"].size == 8


@pytest.mark.parametrize("kept", [0, 7, 20, -1])
def test_a_truncated_file_is_called_truncated(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, VAE_TENSORS)
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(CheckpointDamaged, match=r"x\.safetensors is truncated"):
        read_header(path)


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> bytes:
    return json.dumps({"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\xff" * 100, "header makes no sense"),
        (frame(b"not json"), "header is not JSON"),
        (frame(b"\xff\xfe"), "header is not JSON"),
        (frame(b"[" * 100_000), "header is not JSON"),
        (frame(b"[]"), "not a JSON object"),
        (frame(b'{"x": 1}'), "entry for x is not"),
        (frame(entry(shape=(-1,)), b"1234"), "entry for x is not"),
        (frame(entry(shape=(1.0,)), b"1234"), "entry for x is not"),
        (frame(entry(offsets=(0, 4, 8)), b"1234"), "entry for x is not"),
        (frame(entry(dtype="F4"), b"1234"), "dtype of x is F4"),
        (frame(entry(offsets=(0, 8)), b"12345678"), "size of x does not fit its shape [1]"),
        (frame(entry(offsets=(4, 8)), b"12345678"), "overlap or leave gaps"),
        (frame(entry(), b"12345"), "1 bytes follow its last tensor"),
        (frame(b'{"x": {}, "x": {}}'), "holds x twice"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_a_file_that_is_not_sound_is_named_with_the_reason(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)

    with pytest.raises(CheckpointDamaged, match=re.escape(complaint)) as caught:
        read_header(path)

    assert str(path) in str(caught.value)


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    path = tmp_path / "x.safetensors"
    path.write_bytes(frame(json.dumps({"x": one, "y": one}).encode(), b"1234"))

    with pytest.raises(CheckpointDamaged, match="overlap"):
        read_header(path)


def large_file(root: Path) -> Path:
    """A sparse safetensors file that is too large to be read whole."""
    path = root / "x.safetensors"
    size = WHOLE_FILE_BYTES + 4
    header = entry(shape=(size // 4,), offsets=(0, size))
    with path.open("wb") as file:
        file.write(frame(header))
        file.truncate(8 + len(header) + size)
    return path


def write_byte(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position, 0 if position >= 0 else 2)
        file.write(b"\x01")


def test_of_a_large_file_header_first_and_last_block_count(tmp_path: Path) -> None:
    path = large_file(tmp_path)
    digests = {fingerprint(tmp_path, [path])}
    write_byte(path, 8 + path.read_bytes()[8:100].index(b"F32"))
    digests.add(fingerprint(tmp_path, [path]))
    first = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    for position in (first, -1, path.stat().st_size // (NUM_SAMPLES - 1) + SAMPLE_BYTES // 2):
        write_byte(path, position)
        digests.add(fingerprint(tmp_path, [path]))

    assert len(digests) == 5


def test_of_a_large_file_bytes_between_the_samples_are_not_read(tmp_path: Path) -> None:
    path = large_file(tmp_path)
    before = fingerprint(tmp_path, [path])
    write_byte(path, 8 + SAMPLE_BYTES * 4)

    assert fingerprint(tmp_path, [path]) == before


def test_the_order_of_the_files_does_not_count(root: Path) -> None:
    files = [file for file in root.rglob("*") if file.is_file()]

    assert fingerprint(root, files) == fingerprint(root, reversed(files))
