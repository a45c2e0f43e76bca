"""TAEHV's decoder is that of the published file, and computes what its authors' program computes.

The published weights are not here: the file that the tests write has random ones.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from pipeline.taehv import FILE, TaehvDecoder
from weights.errors import CheckpointDamaged, CheckpointIncomplete

PUBLISHED_BYTES = 22_642_902
PUBLISHED_TENSORS = 128

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def _convolution(name: str, into: int, out: int, *, size: int = 3, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (out, into, size, size)
    if bias:
        yield f"{name}.bias", (out,)


def _blocks(names: list[str], channels: int) -> Shapes:
    for name in names:
        for number, into in ((0, 2 * channels), (2, channels), (4, channels)):
            yield from _convolution(f"{name}.conv.{number}", into, channels)


def _encoder() -> Shapes:
    yield from _convolution("0", 3, 64)
    for first, pooled in ((2, 2), (7, 2), (12, 1)):
        yield from _convolution(f"{first}.conv", 64 * pooled, 64, size=1, bias=False)
        yield from _convolution(f"{first + 1}", 64, 64, bias=False)
        yield from _blocks([f"{first + number}" for number in (2, 3, 4)], 64)
    yield from _convolution("17", 64, 16)


def _decoder() -> Shapes:
    yield from _convolution("1", 16, 256)
    for first, channels, out, grown in ((3, 256, 128, 1), (9, 128, 64, 2), (15, 64, 64, 2)):
        yield from _blocks([f"{first + number}" for number in range(3)], channels)
        name = f"{first + 4}.conv"
        yield from _convolution(name, channels, grown * channels, size=1, bias=False)
        yield from _convolution(f"{first + 5}", channels, out, bias=False)
    yield from _convolution("22", 64, 3)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {f"encoder.{name}": shape for name, shape in _encoder()}
    shapes |= {f"decoder.{name}": shape for name, shape in _decoder()}
    return {
        name: (torch.randn(shape, generator=generator) * max(1, shape[-1] ** 2 * 64) ** -0.5).half()
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def checkpoint(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_file(tensors, folder / FILE)
    return folder


def test_the_file_has_the_size_of_the_published_one(
    tensors: dict[str, Tensor], checkpoint: Path
) -> None:
    """So the names, shapes and dtype that are written here are those of that file."""
    assert len(tensors) == PUBLISHED_TENSORS
    assert (checkpoint / FILE).stat().st_size == PUBLISHED_BYTES


def reference(tensors: dict[str, Tensor], latents: Tensor) -> Tensor:
    """As the authors' `apply_model_with_memblocks_parallel` decodes all frames at once."""

    def convolve(name: str, hidden: Tensor) -> Tensor:
        weight = tensors[f"decoder.{name}.weight"].float()
        bias = tensors.get(f"decoder.{name}.bias")
        return conv2d(hidden, weight, None if bias is None else bias.float(), padding="same")

    def block(name: str, hidden: Tensor) -> Tensor:
        past = torch.cat([torch.zeros_like(hidden[:1]), hidden[:-1]])
        inner = torch.cat([hidden, past], 1)
        for number in (0, 2):
            inner = convolve(f"{name}.conv.{number}", inner).relu()
        return (convolve(f"{name}.conv.4", inner) + hidden).relu()

    hidden = convolve("1", torch.tanh(latents[0].transpose(0, 1) / 3) * 3).relu()
    for first, is_larger in ((3, True), (9, False), (15, False)):
        for number in range(3):
            hidden = block(f"{first + number}", hidden)
        if is_larger:
            hidden = interpolate(hidden, scale_factor=2)
        # Of the frames that one grows to, the last.
        hidden = convolve(f"{first + 4}.conv", hidden)[:, -hidden.shape[1] :]
        hidden = convolve(f"{first + 5}", hidden)
    return convolve("22", hidden.relu()).clamp(0, 1)


@torch.inference_mode()
def test_a_picture_of_each_latent_frame_is_what_the_authors_make(
    tensors: dict[str, Tensor], checkpoint: Path
) -> None:
    latents = 2 * torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(2))
    made = TaehvDecoder.beside(checkpoint, "cpu")(latents)
    expected = 255 * reference(tensors, latents).permute(0, 2, 3, 1)

    assert made.shape == (3, 8, 12, 3)
    assert float(expected.std()) > 5, "the frames are not all black or white"
    assert float((made.float() - expected).abs().max()) <= 0.51


def test_a_file_that_is_missing_or_another_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointIncomplete, match=f"{tmp_path}/{FILE}.*madebyollin/taehv"):
        TaehvDecoder.beside(tmp_path, "cpu")
    for data in (b"no tensors", None):
        if data is None:
            save_file({"decoder.1.weight": torch.zeros(3)}, tmp_path / FILE)
        else:
            (tmp_path / FILE).write_bytes(data)
        with pytest.raises(CheckpointDamaged, match=r"is not the TAEHV of Wan 2\.1"):
            TaehvDecoder.beside(tmp_path, "cpu")
