"""The exact savings of the transformer: each gives the bits that the long way would."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from modules import load_transformer
from stand_ins import stand_in
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.network import layers
from pipeline.network.kernels.heads import rotate
from pipeline.network.kernels.residual import add_gated_modulate
from pipeline.network.layers import KeysValues
from pipeline.network.transformer import CosmosTransformer, TransformerConfig, patchify, unpatchify
from weights.store import WeightStore

GRID = (3, 8, 12)


@pytest.fixture(scope="module")
def store() -> WeightStore:
    return WeightStore(stand_in(weights="oracle"))


@pytest.fixture(scope="module")
def network(store: WeightStore) -> CosmosTransformer:
    return load_transformer(store, torch.float32)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _text(network: CosmosTransformer, seed: int) -> tuple[KeysValues, ...]:
    return network.text_keys_values(_random(512, network.config.text_embed_dim, seed=seed))


def _times(sigma: float = 0.6) -> Tensor:
    return torch.tensor([[1e-4, sigma, sigma]])


def _velocity(network: CosmosTransformer, latents: Tensor, text: tuple[KeysValues, ...]) -> Tensor:
    given = torch.tensor([[1.0, 0.0, 0.0]])
    rotary = network.rotary_tables(*GRID)
    shared = network.forward_shared(latents, given, _times(), rotary)
    return network.forward_branch(shared, text)


@contextmanager
def _outputs_of(network: CosmosTransformer, name: str) -> Iterator[list[Tensor]]:
    """The outputs of one of the network's modules while the context lasts."""
    outputs: list[Tensor] = []
    handle = network.get_submodule(name).register_forward_hook(
        lambda _module, _inputs, output: outputs.append(output)
    )
    yield outputs
    handle.remove()


def test_sharing_the_first_self_attention_changes_no_bit(network: CosmosTransformer) -> None:
    latents, first, second = _random(1, 16, *GRID), _text(network, 1), _text(network, 2)
    given = torch.tensor([[1.0, 0.0, 0.0]])
    shared = network.forward_shared(latents, given, _times(), network.rotary_tables(*GRID))
    together = [network.forward_branch(shared, text) for text in (first, second)]
    apart = [_velocity(network, latents, text) for text in (first, second)]
    assert torch.equal(together[0], apart[0])
    assert torch.equal(together[1], apart[1])
    assert not torch.equal(together[0], together[1])


def test_the_first_self_attention_runs_once_for_both_branches(network: CosmosTransformer) -> None:
    first, second = _text(network, 1), _text(network, 2)
    with (
        _outputs_of(network, "transformer_blocks.0.attn1.to_qkv") as calls,
        _outputs_of(network, "transformer_blocks.1.attn1.to_qkv") as later_calls,
    ):
        given = torch.tensor([[1.0, 0.0, 0.0]])
        shared = network.forward_shared(
            _random(1, 16, *GRID), given, _times(), network.rotary_tables(*GRID)
        )
        network.forward_branch(shared, first)
        network.forward_branch(shared, second)
    assert (len(calls), len(later_calls)) == (1, 2)


def test_modulation_per_frame_is_modulation_per_token(network: CosmosTransformer) -> None:
    """What diffusers does: the time of every token, laid out token by token."""
    block = network.transformer_blocks[1]
    assert isinstance(block, layers.Block)
    hidden, update = _random(1, 3, 24, network.config.width), _random(1, 72, network.config.width)
    times = network.time_embed(_times())
    per_frame = add_gated_modulate(
        hidden, *_gate_shift_scale(block.modulation(times).self_attention, update), hidden.dtype
    )
    every_token = layers.TimeEmbedding(
        *(t.repeat_interleave(24, dim=1) for t in (times.normed, times.offset))
    )
    modulation = block.modulation(every_token).self_attention
    shift, scale, gate = (m.squeeze(2) for m in modulation if m is not None)
    total = hidden.flatten(1, 2) + gate * update
    normed = nn.functional.layer_norm(total, total.shape[-1:], eps=1e-6) * (1 + scale) + shift
    # One row or many: the matrix product may add in another order, nothing else differs.
    torch.testing.assert_close(per_frame.normed.flatten(1, 2), normed, rtol=1e-6, atol=1e-6)


def _gate_shift_scale(
    modulation: layers.Modulation, update: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert modulation.gate is not None
    return modulation.gate, update, modulation.shift, modulation.scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_feed_forward_in_blocks_of_rows_changes_no_bit(
    store: WeightStore, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = load_transformer(store, dtype).transformer_blocks[1]
    assert isinstance(block, layers.Block)
    widened: list[int] = []
    block.ff.get_submodule("net.0.proj").register_forward_hook(
        lambda _module, _inputs, output: widened.append(output.nbytes)
    )
    tokens = _random(1, 3, 24, block.ff.get_parameter("net.2.weight").shape[0]).to(dtype)
    whole = block.ff(tokens)
    monkeypatch.setattr(layers, "WIDENED_BYTES", widened[0] // 3)
    assert torch.equal(block.ff(tokens), whole)
    assert len(widened) == 4 and max(widened[1:]) <= layers.WIDENED_BYTES


def test_modulation_is_computed_for_frames_and_not_for_tokens(network: CosmosTransformer) -> None:
    with _outputs_of(network, "transformer_blocks.0.norm1.linear_2") as outputs:
        _velocity(network, _random(1, 16, *GRID), _text(network, 1))
    assert [output.shape for output in outputs] == [(1, 3, 3 * network.config.width)]


def test_text_keys_and_values_kept_for_a_request_are_those_of_every_step(
    network: CosmosTransformer,
) -> None:
    text = _random(512, network.config.text_embed_dim, seed=1)
    kept, again = network.text_keys_values(text), network.text_keys_values(text)
    for one, other in zip(kept, again, strict=True):
        assert torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)
    with _outputs_of(network, "transformer_blocks.0.attn2.to_k") as calls:
        _velocity(network, _random(1, 16, *GRID), kept)
    assert calls == []


def test_a_request_leaves_nothing_in_the_module(network: CosmosTransformer) -> None:
    before = {name: vars(module).keys() for name, module in network.named_modules()}
    buffers = dict(network.named_buffers())
    _velocity(network, _random(1, 16, *GRID), _text(network, 1))
    assert {name: vars(module).keys() for name, module in network.named_modules()} == before
    assert dict(network.named_buffers()) == buffers == {}


def test_the_operations_are_the_networks_and_no_more(network: CosmosTransformer) -> None:
    """Matrix products and attention of two branches, by the formulas, to the last operation."""
    config = network.config
    width, tokens, text = config.width, 3 * 4 * 6, 512
    rank, frames = config.adaln_lora_dim, 3
    first, second = _text(network, 1), _text(network, 2)
    # The counter sees attention only where it is made of plain matrix products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        given = torch.tensor([[1.0, 0.0, 0.0]])
        shared = network.forward_shared(
            _random(1, 16, *GRID), given, _times(), network.rotary_tables(*GRID)
        )
        network.forward_branch(shared, first)
        network.forward_branch(shared, second)
    self_attention = 2 * tokens * width * 4 * width + 4 * tokens**2 * width
    cross_attention = 2 * tokens * width * 2 * width + 4 * tokens * text * width
    feed_forward = 2 * 2 * tokens * width * 4 * width
    modulation = 3 * config.num_layers * 2 * frames * (width * rank + rank * 3 * width)
    modulation += 2 * frames * (width * rank + rank * 2 * width)
    time = 2 * frames * (width * width + width * 3 * width)
    shared_part = 2 * tokens * 72 * width + time + modulation + self_attention
    branch = (
        (config.num_layers - 1) * self_attention
        + config.num_layers * (cross_attention + feed_forward)
        + 2 * tokens * width * 64
    )
    assert counter.get_total_flops() == shared_part + 2 * branch


def test_patches_are_put_back_where_they_came_from() -> None:
    cells = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(1, 2, 3, 4, 6)
    patches = patchify(cells, (1, 2, 2))
    # Channels come first in a patch that goes in, and last in one that comes out.
    as_output = patches.view(1, 3, 6, 2, 4).transpose(3, 4).flatten(3)
    assert torch.equal(unpatchify(as_output, (3, 2, 3), (1, 2, 2)), cells)


def test_rotation_keeps_the_length_of_every_head() -> None:
    tables = layers.rotary_tables(
        (3, 4, 6),
        head_dim=32,
        scale=(1.0, 3.0, 3.0),
        exponent_dtype=torch.bfloat16,
        device=torch.device("cpu"),
        dtype=torch.float64,
    )
    heads = _random(1, 72, 2, 32).double()
    rotated = rotate(heads, *tables)
    torch.testing.assert_close(rotated.norm(dim=-1), heads.norm(dim=-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rotary_tables_are_those_of_every_tokens_own_angles(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cosines are taken of the few rows that differ, and give the bits of all of them."""
    grid, dims, scale = (5, 4, 6), (44, 42, 42), (1.0, 3.0, 3.0)
    angles = []
    places = torch.meshgrid(*(torch.arange(n).double() for n in grid), indexing="ij")
    for place, dim, stretch in zip(places, dims, scale, strict=True):
        exponents = (torch.arange(0, dim, 2).float() / dim).bfloat16().double()
        frequencies = (10_000.0 * stretch ** (dim / (dim - 2))) ** -exponents
        angles.append(place.flatten()[:, None] * frequencies)
    every = torch.cat(angles, dim=-1).unsqueeze(1)

    taken_of: list[int] = []
    cos = Tensor.cos

    def counted(angles: Tensor) -> Tensor:
        taken_of.append(angles.shape[0])
        return cos(angles)

    monkeypatch.setattr(Tensor, "cos", counted)
    tables = layers.rotary_tables(
        grid,
        head_dim=128,
        scale=scale,
        exponent_dtype=torch.bfloat16,
        device=torch.device("cpu"),
        dtype=dtype,
    )
    monkeypatch.undo()
    assert taken_of == [*grid]
    assert torch.equal(tables.cos, every.cos().to(dtype))
    assert torch.equal(tables.sin, every.sin().to(dtype))


def test_rotary_exponents_are_rounded_to_bfloat16_unless_asked_otherwise(
    store: WeightStore,
) -> None:
    rounded = load_transformer(store, torch.float32).rotary_tables(24, 44, 80)
    network = load_transformer(store, torch.float32, rope_exponent_dtype=torch.float32)
    exact = network.rotary_tables(24, 44, 80)
    # The largest change of an angle is some hundredths of a radian.
    assert 1e-3 < float((rounded.cos - exact.cos).abs().max()) < 0.1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("concat_padding_mask", False),
        ("extra_pos_embed_type", "learnable"),
        ("use_crossattn_projection", False),
        ("patch_size", [2, 2, 2]),
    ],
)
def test_another_network_is_refused_by_name(store: WeightStore, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        TransformerConfig.from_json({**store.config("transformer"), name: value})
