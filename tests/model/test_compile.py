"""torch.compile takes the blocks whole, once for all of them and for every length."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from stand_ins import stand_in
from torch import Tensor

from pipeline.network.transformer import CosmosTransformer, TransformerConfig
from weights.store import WeightStore


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _network() -> CosmosTransformer:
    """Of six layers, each call with the same weights."""
    config = TransformerConfig.from_json(WeightStore(stand_in()).config("transformer"))
    torch.manual_seed(0)
    return CosmosTransformer(replace(config, num_layers=6)).requires_grad_(False).eval()


@torch.inference_mode()
def _velocity(network: CosmosTransformer, num_frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(num_frames)
    latents = torch.randn(1, 16, num_frames, 8, 12, generator=generator)
    given = torch.zeros(1, num_frames)
    rotary = network.rotary_tables(num_frames, 8, 12)
    text = torch.randn(512, network.config.text_embed_dim, generator=generator)
    shared = network.forward_shared(latents, given, given + 0.5, rotary)
    return network.forward_branch(shared, network.text_keys_values(text))


def test_blocks_are_compiled_once_and_once_more_for_all_other_lengths() -> None:
    """And the last block apart: what it makes is for the final layer, in float32."""
    compilations = 0

    def counting(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        nonlocal compilations
        compilations += 1
        forward: Callable[..., Any] = graph.forward
        return forward

    network, plain = _network(), _network()
    network.compile_blocks(counting)
    counts = []
    for num_frames in (3, 3, 4, 6, 7):
        torch.testing.assert_close(_velocity(network, num_frames), _velocity(plain, num_frames))
        counts.append(compilations)
    assert counts == [2, 2, 4, 4, 4]


def test_a_feed_forward_in_blocks_of_rows_is_compiled_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.network.layers.WIDENED_BYTES", 2**14)
    network, plain = _network(), _network()
    network.compile_blocks("aot_eager")
    torch.testing.assert_close(_velocity(network, 3), _velocity(plain, 3))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses its own old parts
def test_compiled_blocks_compute_the_same() -> None:
    network, plain = _network(), _network()
    network.compile_blocks()
    torch.testing.assert_close(_velocity(network, 3), _velocity(plain, 3), rtol=1e-4, atol=1e-5)
