"""The stand-in checkpoint: complete, small, repeatable, and alive in every layout.

The layouts of the published files are among those tried here; which one they have, the tests do
not know.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from weights.errors import CheckpointError
from weights.header import read_header
from weights.stand_in.checkpoint import Layout, Weights, write_stand_in
from weights.store import WeightStore

Build = Callable[..., WeightStore]

LAYOUTS = [
    Layout(),
    Layout(spelling="transformers-5"),
    Layout(sharded=True),
    Layout(dtype="bfloat16"),
    Layout(flat_config=True),
    Layout(spelling="transformers-5", sharded=True, dtype="bfloat16", flat_config=True),
]
WITH_TENSORS = ("text_encoder", "transformer", "vae")


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Write a stand-in of 96x64 once for each set of arguments."""
    stores: dict[tuple[Layout, Weights, int], WeightStore] = {}

    def stand_in(
        layout: Layout = LAYOUTS[0], weights: Weights = "lively", seed: int = 0
    ) -> WeightStore:
        key = (layout, weights, seed)
        if key not in stores:
            root = tmp_path_factory.mktemp("stand_in")
            write_stand_in(root, width=96, height=64, seed=seed, layout=layout, weights=weights)
            stores[key] = WeightStore(root)
        return stores[key]

    return stand_in


def read(store: WeightStore, component: str) -> dict[str, Tensor]:
    """The component's tensors by canonical name."""
    tensors = {}
    for name, info in store.tensors[component].items():
        with safe_open(info.file, framework="pt") as file:
            tensors[name] = file.get_tensor(info.key)
    return tensors


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_holds_the_same_tensors(build: Build, layout: Layout) -> None:
    for component in WITH_TENSORS:
        expected = read(build(), component)
        found = read(build(layout), component)
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert tensor.dtype == getattr(torch, layout.dtype or "float32")
            assert torch.equal(tensor, expected[name].to(tensor.dtype)), name


@pytest.mark.parametrize(
    ("layout", "keys"),
    [
        (
            Layout(spelling="transformers-4"),
            {"model.norm.weight", "visual.merger.ln_q.weight", "lm_head.weight"},
        ),
        (
            Layout(spelling="transformers-5"),
            {
                "model.language_model.norm.weight",
                "model.visual.merger.ln_q.weight",
                "lm_head.weight",
            },
        ),
    ],
)
def test_the_file_has_the_spelling_of_the_layout(
    build: Build, layout: Layout, keys: set[str]
) -> None:
    header = read_header(build(layout).folder("text_encoder") / "model.safetensors")

    assert keys <= header.keys()


def test_shards_are_several_and_named_in_an_index(build: Build) -> None:
    store = build(Layout(sharded=True))
    for component in ("text_encoder", "transformer"):
        assert len({info.file for info in store.tensors[component].values()}) > 2
        assert len(list(store.folder(component).glob("*.safetensors.index.json"))) == 1


def test_a_flat_config_describes_the_same_text_model(build: Build) -> None:
    from transformers import Qwen2_5_VLConfig

    flat = build(Layout(flat_config=True)).config("text_encoder")
    assert not {"text_config", "layer_types", "rope_parameters", "dtype"} & flat.keys()
    assert flat["hidden_size"] == 64
    assert flat["rope_theta"] == 1e6
    assert flat["rope_scaling"] == {"type": "mrope", "mrope_section": [4, 2, 2]}

    nested: Any = Qwen2_5_VLConfig.from_dict(build().config("text_encoder"))
    unpacked: Any = Qwen2_5_VLConfig.from_dict(flat)
    assert without_dtype(unpacked.text_config) == without_dtype(nested.text_config)


def without_dtype(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.to_dict().items() if key != "dtype"}


@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[-1]], ids=str)
def test_transformers_itself_finds_every_tensor(build: Build, layout: Layout) -> None:
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    store = build(layout)
    loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        store.folder("text_encoder"), output_loading_info=True, dtype=torch.float32
    )
    model, info = loaded
    assert not info["missing_keys"] and not info["unexpected_keys"]

    tokenizer: Any = AutoTokenizer.from_pretrained(store.folder("tokenizer"))
    message = [{"role": "user", "content": [{"type": "text", "text": "A café at dusk"}]}]
    text = tokenizer.apply_chat_template(message, tokenize=False)
    assert text == "<|im_start|>user\nA café at dusk<|im_end|>\n"
    tokens = tokenizer(text, return_tensors="pt")
    assert tokenizer.decode(tokens["input_ids"][0]) == text
    with torch.no_grad():
        states = model(**tokens, output_hidden_states=True).hidden_states
    for state in states:
        assert torch.isfinite(state).all()
        assert state.std(dim=1).min() > 0.01


def test_the_vae_decodes_noise_to_moving_colours(build: Build) -> None:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(build().folder("vae"))
    mean, std = (
        torch.tensor(values).view(1, 16, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    noise = torch.randn(1, 16, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        frames = vae.decode(noise * std + mean).sample

    assert frames.shape == (1, 3, 9, 64, 96)
    assert (frames.std(dim=(0, 2, 3, 4)) > 0.2).all()
    assert (frames.abs() == 1).float().mean() < 0.2
    assert frames.diff(dim=2).abs().mean() > 0.1


def test_a_photograph_gives_latents_of_about_the_published_spread(build: Build) -> None:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(build().folder("vae"))
    picture = torch.rand(1, 3, 1, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latent = vae.encode(picture).latent_dist.mode()

    assert latent.shape == (1, 16, 1, 8, 12)
    assert 1 < latent.std() < 4


def test_no_tensor_is_constant(build: Build) -> None:
    for component in WITH_TENSORS:
        for name, tensor in read(build(), component).items():
            assert torch.isfinite(tensor).all(), name
            assert tensor.std() > 0, name


def test_for_the_oracle_matrices_are_small_and_attention_is_sharp(build: Build) -> None:
    store = build(weights="oracle")
    tensors = read(store, "transformer")
    norms = [t for name, t in tensors.items() if name.endswith(("norm_q.weight", "norm_k.weight"))]
    assert len(norms) == 12
    assert all((norm == 2).all() for norm in norms)
    matrices = [tensor for tensor in tensors.values() if tensor.ndim >= 2]
    assert all(0.04 < matrix.std() < 0.06 for matrix in matrices)
    for component in ("text_encoder", "vae"):
        usual = read(build(), component)
        assert all(torch.equal(t, usual[name]) for name, t in read(store, component).items())


def test_the_same_seed_gives_the_same_checkpoint(build: Build, tmp_path: Path) -> None:
    again = tmp_path / "again"
    write_stand_in(again, width=96, height=64, weights="lively")

    assert WeightStore(again).digest == build().digest


def test_another_seed_gives_another_checkpoint(build: Build) -> None:
    assert build(seed=1).digest != build().digest


def test_the_callers_random_numbers_are_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    write_stand_in(tmp_path / "stand_in", weights="lively")
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_holds_all_numbers_of_the_moving_one(build: Build) -> None:
    store = build(Layout(dtype=None), "moving")
    for component in WITH_TENSORS:
        for name, tensor in read(store, component).items():
            assert tensor.dtype == torch.float16
            assert torch.isfinite(tensor).all(), name


@pytest.mark.parametrize(
    ("weights", "most_bytes", "licence", "dtype"),
    [
        ("moving", 10_000_000, "Numbers", "float32"),
        ("lively", 15_000_000, "Random", "bfloat16"),
    ],
)
def test_a_stand_in_is_small_and_readable_like_any_file(
    tmp_path: Path, weights: Weights, most_bytes: int, licence: str, dtype: str
) -> None:
    root = tmp_path / "new" / "stand_in"
    write_stand_in(root, weights=weights)

    files = [file for file in root.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < most_bytes
    assert len({file.stat().st_mode for file in files}) == 1
    profile = WeightStore(root).profile
    assert (profile.width, profile.height, profile.max_frames) == (320, 176, 93)
    assert (profile.guardrail, profile.dtype) == ("none", dtype)
    assert profile.licence.startswith(licence)


@pytest.mark.parametrize(("width", "height"), [(97, 64), (96, 63), (0, 64), (96, -16)])
def test_a_size_that_is_no_multiple_of_16_is_refused(
    tmp_path: Path, width: int, height: int
) -> None:
    with pytest.raises(CheckpointError, match="must be a positive multiple of 16"):
        write_stand_in(tmp_path / "x", width=width, height=height)


def test_a_folder_that_is_not_empty_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")

    with pytest.raises(CheckpointError, match="is not empty"):
        write_stand_in(tmp_path)
    with pytest.raises(CheckpointError, match="is a file"):
        write_stand_in(tmp_path / "precious")

    assert [file.name for file in tmp_path.iterdir()] == ["precious"]


def test_a_stand_in_that_fails_halfway_leaves_nothing(tmp_path: Path) -> None:
    too_large_for_a_generator = 2**64
    with pytest.raises(ValueError, match="Overflow"):
        write_stand_in(tmp_path / "x", seed=too_large_for_a_generator, weights="lively")

    assert list(tmp_path.iterdir()) == []
