"""Which files and tensors a checkpoint must have, and what is said when it has not."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import (
    TEXT_TENSORS,
    VAE_TENSORS,
    write_checkpoint,
    write_json,
    write_shards,
    write_tensors,
)
from paths import ROOT

from weights.checkpoint_profile import CheckpointProfile
from weights.errors import CheckpointDamaged, CheckpointIncomplete, CheckpointMismatch
from weights.store import WeightStore

TEXT_NAMES = {"embed_tokens.weight", "layers.0.self_attn.q_proj.weight", "norm.weight"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


def test_a_complete_checkpoint_gives_configs_folders_and_tensors(root: Path) -> None:
    store = WeightStore(root)

    assert store.config("scheduler") == {"sigma_max": 200.0}
    assert store.config("transformer") == {"num_layers": 1}
    assert store.folder("tokenizer") == root / "tokenizer"
    info = store.tensors["vae"]["quant_conv.weight"]
    assert info.file == root / "vae" / "diffusion_pytorch_model.safetensors"
    assert (info.key, info.shape, info.dtype) == ("quant_conv.weight", (2, 2, 1, 1, 1), "F32")
    assert store.tensors["tokenizer"] == {}


def test_an_empty_folder_is_refused_with_the_whole_command(
    tmp_path: Path,
) -> None:
    with pytest.raises(CheckpointIncomplete) as caught:
        WeightStore(tmp_path)

    message = str(caught.value)
    for name in (
        "model_index.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer_config.json",
        "tokenizer/tokenizer.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    ):
        assert name in message
    assert "Accept the licence at https://huggingface.co/nvidia/Cosmos-Predict2.5-2B" in message
    assert message.endswith(f"then run: cosmos-serve weights pull {tmp_path}")
    assert "\n" not in message


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointIncomplete, match=re.escape(f"There is no folder {tmp_path}/no")):
        WeightStore(tmp_path / "no")


def test_all_that_is_missing_is_named(root: Path) -> None:
    (root / "model_index.json").unlink()
    (root / "vae" / "config.json").unlink()
    (root / "scheduler" / "scheduler_config.json").unlink()

    with pytest.raises(CheckpointIncomplete) as caught:
        WeightStore(root)

    wanted = "lacks model_index.json, vae/config.json, scheduler/scheduler_config.json."
    assert wanted in str(caught.value)


def test_a_folder_name_with_a_space_is_quoted_in_the_command(tmp_path: Path) -> None:
    root = tmp_path / "my models"
    root.mkdir()
    with pytest.raises(CheckpointIncomplete, match=re.escape(f"weights pull '{root}'")):
        WeightStore(root)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "ema.pt", "vae.pth"])
def test_weights_in_another_format_are_named_as_not_loadable(root: Path, name: str) -> None:
    (root / "vae" / "diffusion_pytorch_model.safetensors").rename(root / "vae" / name)

    with pytest.raises(CheckpointIncomplete, match=re.escape(f"({name} is there, but only")):
        WeightStore(root)


def test_vocabulary_and_merges_stand_in_for_a_tokenizer_file(root: Path) -> None:
    (root / "tokenizer" / "tokenizer.json").unlink()
    write_json(root / "tokenizer" / "vocab.json", {})
    with pytest.raises(CheckpointIncomplete, match=r"tokenizer/tokenizer\.json"):
        WeightStore(root)

    (root / "tokenizer" / "merges.txt").write_text("")
    WeightStore(root)


def test_another_pipelines_checkpoint_is_refused(root: Path) -> None:
    write_json(root / "model_index.json", {"_class_name": "WanPipeline"})

    with pytest.raises(CheckpointMismatch, match="WanPipeline; we run Cosmos2_5_Predict"):
        WeightStore(root)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"{", "is not JSON"), (b"[]", "does not hold a JSON object"), (b"\xff", "is not JSON")],
)
def test_a_configuration_that_is_no_json_object_is_named(
    root: Path, content: bytes, complaint: str
) -> None:
    (root / "vae" / "config.json").write_bytes(content)

    with pytest.raises(CheckpointDamaged, match=rf"vae/config\.json {complaint}"):
        WeightStore(root)


@pytest.mark.parametrize(
    ("language_model", "vision"),
    [("model.", "visual."), ("model.language_model.", "model.visual.")],
)
def test_both_spellings_lead_to_the_same_names(
    root: Path, language_model: str, vision: str
) -> None:
    tensors = {
        key.replace("model.", language_model).replace("visual.", vision): shape
        for key, shape in TEXT_TENSORS.items()
    }
    write_tensors(root / "text_encoder" / "model.safetensors", tensors)

    found = WeightStore(root).tensors["text_encoder"]

    assert set(found) == TEXT_NAMES
    assert found["norm.weight"].key == f"{language_model}norm.weight"


def test_a_tensor_in_both_spellings_is_a_duplicate(root: Path) -> None:
    tensors = dict(TEXT_TENSORS) | {"model.language_model.norm.weight": (4,)}
    write_tensors(root / "text_encoder" / "model.safetensors", tensors)

    with pytest.raises(CheckpointDamaged, match="both are the same tensor"):
        WeightStore(root)


def test_size_counts_what_is_loaded_and_no_more(root: Path) -> None:
    store = WeightStore(root)

    loaded = sum(info.size for info in store.tensors["text_encoder"].values())
    assert loaded == 4 * (6 * 4 + 4 * 4 + 4)
    config = root / "text_encoder" / "config.json"
    assert store.size("text_encoder") == loaded + config.stat().st_size
    assert store.size("tokenizer") == 4  # two files that hold {}


def test_the_expected_tensors_match(root: Path) -> None:
    store = WeightStore(root)

    assert store.match("vae", VAE_TENSORS) == store.tensors["vae"]


@pytest.mark.parametrize(
    ("expected", "complaint"),
    [
        (dict(VAE_TENSORS) | {"conv.weight": (1,)}, "Missing: conv.weight."),
        ({"quant_conv.bias": (2,)}, "Unexpected: quant_conv.weight."),
        (
            dict(VAE_TENSORS) | {"quant_conv.bias": (3,)},
            "Of the wrong shape: quant_conv.bias (is [2], want [3]).",
        ),
    ],
)
def test_a_tensor_that_does_not_match_is_named(
    root: Path, expected: dict[str, tuple[int, ...]], complaint: str
) -> None:
    with pytest.raises(CheckpointMismatch, match=re.escape(complaint)) as caught:
        WeightStore(root).match("vae", expected)

    assert str(root / "vae") in str(caught.value)


def test_five_tensors_are_named_and_the_rest_counted(root: Path) -> None:
    expected = dict(VAE_TENSORS) | {f"layer.{number}": (1,) for number in range(8)}

    with pytest.raises(CheckpointMismatch, match=r"layer\.3, layer\.4 and 3 more\.$"):
        WeightStore(root).match("vae", expected)


def test_a_tensor_of_whole_numbers_is_refused(root: Path) -> None:
    path = root / "vae" / "diffusion_pytorch_model.safetensors"
    write_tensors(path, VAE_TENSORS, dtype="I32")

    with pytest.raises(CheckpointMismatch, match=r"Not of floating point: .*bias \(I32\)"):
        WeightStore(root).match("vae", VAE_TENSORS)


def test_without_a_profile_the_published_checkpoint_is_assumed(root: Path) -> None:
    profile = WeightStore(root).profile

    assert (profile.width, profile.height, profile.max_frames) == (1280, 704, 93)
    assert profile.guardrail == "required"


def test_a_profile_is_read_and_keys_left_out_keep_their_defaults(root: Path) -> None:
    write_json(root / "cosmos_serve.json", {"width": 96, "height": 64, "guardrail": "none"})

    assert WeightStore(root).profile == CheckpointProfile(width=96, height=64, guardrail="none")


@pytest.mark.parametrize(
    ("profile", "complaint"),
    [
        ({"widht": 96}, "unknown key 'widht'; it may have width, height"),
        ({"width": "96"}, "width is '96'; a positive multiple of 16 is wanted"),
        ({"height": 65}, "height is 65; a positive multiple of 16"),
        ({"height": 0}, "height is 0; a positive multiple of 16"),
        ({"max_frames": 9.0}, "max_frames is 9.0; a positive whole number"),
        ({"max_frames": True}, "max_frames is True; a positive whole number"),
        ({"guardrail": "off"}, 'guardrail is \'off\'; "required" or "none"'),
        ({"guardrail": []}, 'guardrail is []; "required" or "none"'),
        ({"sampler": "euler"}, 'sampler is \'euler\'; "unipc" or "trigflow"'),
        ({"dtype": "float16"}, 'dtype is \'float16\'; "bfloat16" or "float32"'),
        ({"licence": None}, "licence is None; a string"),
    ],
)
def test_a_profile_with_a_wrong_value_is_refused(
    root: Path, profile: dict[str, Any], complaint: str
) -> None:
    write_json(root / "cosmos_serve.json", profile)

    with pytest.raises(CheckpointMismatch, match=re.escape(complaint)):
        WeightStore(root)


def test_the_digest_is_the_same_for_a_copy_written_in_another_order(
    root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    for file in sorted((f for f in root.rglob("*") if f.is_file()), reverse=True):
        target = copy / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())

    assert WeightStore(copy).digest == WeightStore(root).digest


@pytest.mark.parametrize(
    "name",
    [
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_the_digest_changes_with_the_last_byte_of_a_loaded_file(root: Path, name: str) -> None:
    before = WeightStore(root).digest
    content = (root / name).read_bytes()
    flipped = content + b" " if name.endswith(".json") else content[:-1] + b"\xff"
    (root / name).write_bytes(flipped)

    assert WeightStore(root).digest != before


def test_the_digest_covers_the_profile_and_the_loaded_files_alone(
    root: Path,
) -> None:
    before = WeightStore(root).digest
    (root / "README.md").write_text("notes")
    (root / "vae" / "old.bin").write_bytes(b"notes")
    assert WeightStore(root).digest == before

    write_json(root / "cosmos_serve.json", {"width": 96})
    assert WeightStore(root).digest != before


def test_a_checkpoint_in_shards_gives_the_same_tensors(root: Path) -> None:
    digest_of_one_file = WeightStore(root).digest
    folder = root / "text_encoder"
    (folder / "model.safetensors").unlink()
    items = list(TEXT_TENSORS.items())
    write_shards(folder, "model", [dict(items[:2]), dict(items[2:])])

    sharded = WeightStore(root)

    assert set(sharded.tensors["text_encoder"]) == TEXT_NAMES
    assert sharded.tensors["text_encoder"]["norm.weight"].file.name == (
        "model-00002-of-00002.safetensors"
    )
    assert sharded.digest != digest_of_one_file


def test_importing_the_store_or_the_stand_in_imports_no_torch_and_no_numpy() -> None:
    code = (
        "import sys, weights.store, weights.stand_in.checkpoint; "
        "print({'torch', 'numpy', 'diffusers', 'transformers'} & set(sys.modules))"
    )
    root = ROOT
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
