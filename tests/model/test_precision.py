"""In bfloat16 our error is smaller than that of NVIDIA's own recipe, each against its float64."""

from statistics import mean

import pytest
import torch
from modules import load_transformer
from nvidia_recipe import Recipe
from stand_ins import stand_in
from torch import Tensor

from pipeline.network.kernels.residual import Residual, modulate
from pipeline.network.layers import Block
from pipeline.network.transformer import CosmosTransformer, TransformerConfig
from weights.stand_in.checkpoint import Layout
from weights.store import WeightStore

CPU = torch.device("cpu")
SEEDS = range(8)
BOUND = 0.9

# Wide enough that what the blocks add weighs against what they add it to, as in a trained network.
WIDE = TransformerConfig(
    in_channels=17,
    out_channels=16,
    num_attention_heads=4,
    attention_head_dim=64,
    num_layers=4,
    mlp_ratio=4.0,
    text_embed_dim=128,
    adaln_lora_dim=64,
    patch_size=(1, 2, 2),
    rope_scale=(1.0, 3.0, 3.0),
    crossattn_proj_in_channels=64,
)


@pytest.fixture(scope="module")
def store() -> WeightStore:
    """Weights that bfloat16 holds exactly, so that only the computation rounds."""
    return WeightStore(stand_in(weights="oracle", layout=Layout(dtype="bfloat16")))


def _wide_network(
    dtype: torch.dtype, residual_dtype: torch.dtype = torch.float32
) -> CosmosTransformer:
    """The oracle tests' initialisation, at a greater width."""
    network = CosmosTransformer(WIDE, residual_dtype=residual_dtype)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            values = 0.05 * torch.randn(parameter.shape, generator=generator)
        else:
            is_head_norm = name.endswith(("norm_q.weight", "norm_k.weight"))
            values = torch.full(parameter.shape, 2.0 if is_head_norm else 1.0)
        parameter.data = values.bfloat16().to(network.parameter_dtype(name, dtype))
    return network.requires_grad_(False).eval()


@torch.inference_mode()
def _velocity(network: CosmosTransformer, seed: int) -> Tensor:
    latents, given, times, text = _inputs(network, seed)
    rotary = network.rotary_tables(*latents.shape[2:])
    shared = network.forward_shared(latents, given, times, rotary)
    return network.forward_branch(shared, network.text_keys_values(text))


def _recipe(network: CosmosTransformer, dtype: torch.dtype) -> Recipe:
    weights: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        parts = network.published_names(name)
        weights |= zip(parts, tensor.chunk(len(parts)), strict=True)
    return Recipe(network.config, weights, dtype)


@torch.inference_mode()
def _recipe_velocity(network: CosmosTransformer, dtype: torch.dtype, seed: int) -> Tensor:
    return _recipe(network, dtype).velocity(*_inputs(network, seed))


def _inputs(network: CosmosTransformer, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs that bfloat16 holds exactly: latents, which frames are given, times, text."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, 16, 3, 8, 12, generator=generator).bfloat16().float()
    text = torch.randn(512, network.config.text_embed_dim, generator=generator)
    given = torch.tensor([[1.0, 0.0, 0.0]])
    times = given * 1e-4 + (1 - given) * torch.rand(1, generator=generator)
    return latents, given, times, text.bfloat16().float()


def _error(rounded: Tensor, exact: Tensor) -> float:
    return float((rounded.double() - exact).norm() / exact.norm())


@torch.inference_mode()
def _block(network: CosmosTransformer, index: int, seed: int) -> Tensor:
    """The stream after one block, [1, 3, 24, D]."""
    hidden, times, text = _block_inputs(network, seed)
    embedded = network.time_embed(times)
    block = network.transformer_blocks[index]
    assert isinstance(block, Block)
    modulation, keys_values = block.modulation(embedded), network.text_keys_values(text)[index]
    first = modulation.self_attention
    hidden = hidden.to(network.residual_dtype)
    stream = Residual(hidden, modulate(hidden, first.shift, first.scale, network.dtype))
    rotary = network.rotary_tables(3, 8, 12)
    after: Residual = block(
        stream, modulation, first, rotary, keys_values, network.attend, network.attend
    )
    return after.hidden


def _block_inputs(network: CosmosTransformer, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A stream, times and text that bfloat16 holds exactly."""
    _, _, times, text = _inputs(network, seed)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(1, 3, 24, network.config.width, generator=generator)
    return hidden.bfloat16().float(), times, text


@torch.inference_mode()
def _recipe_block(network: CosmosTransformer, dtype: torch.dtype, index: int, seed: int) -> Tensor:
    hidden, times, text = _block_inputs(network, seed)
    return _recipe(network, dtype).block(index, hidden.to(dtype), times, (3, 4, 6), text)


def _ratio(rounded: CosmosTransformer, exact: CosmosTransformer) -> float:
    """Our mean error over that of NVIDIA's recipe, each against its own float64."""
    ours = mean(_error(_velocity(rounded, seed), _velocity(exact, seed)) for seed in SEEDS)
    recipes = []
    for seed in SEEDS:
        recipe_exact = _recipe_velocity(exact, torch.float64, seed)
        recipes.append(_error(_recipe_velocity(exact, torch.bfloat16, seed), recipe_exact))
    return ours / mean(recipes)


def test_the_reference_recipe_is_the_same_function_in_float64(store: WeightStore) -> None:
    exact = load_transformer(store, torch.float64)
    recipe = _recipe_velocity(exact, torch.float64, seed=0)
    assert _error(_velocity(exact, seed=0), recipe) < 1e-13


def test_bfloat16_errs_less_than_nvidias_recipe_on_the_stand_in(store: WeightStore) -> None:
    rounded = load_transformer(store, torch.bfloat16)
    assert _ratio(rounded, load_transformer(store, torch.float64)) <= BOUND


@pytest.mark.parametrize("residual_dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_errs_less_than_nvidias_recipe_on_a_wider_network(
    residual_dtype: torch.dtype,
) -> None:
    rounded = _wide_network(torch.bfloat16, residual_dtype)
    assert _ratio(rounded, _wide_network(torch.float64)) <= BOUND


@pytest.mark.parametrize("index", range(WIDE.num_layers))
def test_each_block_errs_less_than_nvidias_recipe(index: int) -> None:
    rounded, exact = _wide_network(torch.bfloat16), _wide_network(torch.float64)
    ours, recipes = [], []
    for seed in SEEDS:
        recipe_exact = _recipe_block(exact, torch.float64, index, seed)
        recipes.append(_error(_recipe_block(exact, torch.bfloat16, index, seed), recipe_exact))
        block_exact = _block(exact, index, seed)
        assert _error(block_exact, recipe_exact) < 1e-13
        ours.append(_error(_block(rounded, index, seed), block_exact))
    assert mean(ours) <= BOUND * mean(recipes)


def test_the_velocity_is_float32_whatever_the_products_are(store: WeightStore) -> None:
    assert _velocity(load_transformer(store, torch.bfloat16), seed=0).dtype == torch.float32
