"""Every spelling, split and number format that the published files may have gives one model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from modules import load_transformer
from safetensors.torch import load_file, save_file
from stand_ins import stand_in
from torch import Tensor

from pipeline.guardrail import GuardrailMissing
from pipeline.load import default_dtype, load_pipeline
from weights.errors import CheckpointError
from weights.stand_in.checkpoint import Layout
from weights.store import WeightStore

LAYOUTS = {
    "transformers 4 names": Layout(spelling="transformers-4"),
    "transformers 5 names": Layout(spelling="transformers-5"),
    "in shards": Layout(sharded=True),
    "a flat configuration": Layout(flat_config=True),
    "all at once": Layout(spelling="transformers-5", sharded=True, flat_config=True),
}
PROMPT = "A calm sea."


@pytest.fixture(scope="module")
def expected() -> Tensor:
    return load_pipeline(WeightStore(stand_in()), "cpu").text.encode(PROMPT)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_model(name: str, expected: Tensor) -> None:
    pipeline = load_pipeline(WeightStore(stand_in(layout=LAYOUTS[name])), "cpu")
    assert torch.equal(pipeline.text.encode(PROMPT), expected)


def test_a_bfloat16_checkpoint_gives_the_same_model_rounded(expected: Tensor) -> None:
    store = WeightStore(stand_in(layout=Layout(dtype="bfloat16")))
    encoded = load_pipeline(store, "cpu").text.encode(PROMPT)
    assert encoded.dtype == torch.float32
    assert float((encoded - expected).norm() / expected.norm()) < 0.05


def test_islands_stay_in_float32_and_the_rest_is_bfloat16() -> None:
    network = load_transformer(WeightStore(stand_in()), torch.bfloat16)
    wide, narrow = (
        {n.split(".", 2)[-1] for n, p in network.named_parameters() if p.dtype == dtype}
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert {"norm1.linear_1.weight", "attn1.norm_q.weight", "attn2.norm_k.weight"} <= wide
    assert {"attn1.to_qkv.weight", "attn2.to_v.weight", "ff.net.2.weight"} <= narrow
    assert {p.dtype for p in network.parameters()} == {torch.float32, torch.bfloat16}
    assert network.proj_out.weight.dtype == network.time_embed.norm.weight.dtype == torch.float32


def test_a_gpu_computes_in_the_dtype_of_the_checkpoint_and_a_cpu_in_float32(copy: Path) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert default_dtype(gpu, WeightStore(copy)) == torch.bfloat16
    profile = copy / "cosmos_serve.json"
    profile.write_text(json.dumps(json.loads(profile.read_text()) | {"dtype": "float32"}))
    assert default_dtype(gpu, WeightStore(copy)) == torch.float32
    assert default_dtype(cpu, WeightStore(copy)) == torch.float32


def test_a_gpu_does_not_round_float32_convolutions() -> None:
    torch.backends.cudnn.allow_tf32 = True
    load_pipeline(WeightStore(stand_in()), "cpu")
    assert not torch.backends.cudnn.allow_tf32


def test_no_tensor_stays_on_meta_and_rotary_buffers_are_computed() -> None:
    pipeline = load_pipeline(WeightStore(stand_in()), "cpu")
    model = pipeline.text._language_model
    assert isinstance(model, torch.nn.Module)
    for module in (model, pipeline.transformer, pipeline.vae):
        tensors = [*module.parameters(), *module.buffers()]
        assert tensors and not any(tensor.is_meta for tensor in tensors)
    frequencies = dict(model.named_buffers())["rotary_emb.inv_freq"]
    assert frequencies[0] == 1.0 and (frequencies.diff() < 0).all()


def test_progress_counts_the_bytes_read() -> None:
    heard: list[tuple[str, float]] = []
    load_pipeline(
        WeightStore(stand_in()), "cpu", report=lambda text, fraction: heard.append((text, fraction))
    )
    fractions = [fraction for _, fraction in heard]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert {"Loading text_encoder", "Loading transformer", "Loading vae"} <= {t for t, _ in heard}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkpoint that a test may spoil."""
    return Path(shutil.copytree(stand_in(), tmp_path / "checkpoint"))


def _edit(file: Path, name: str, tensor: Tensor | None) -> None:
    tensors = load_file(file)
    tensors.pop(name, None)
    if tensor is not None:
        tensors[name] = tensor
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("component", "file", "name", "tensor"),
    [
        ("transformer", "diffusion_pytorch_model", "proj_out.weight", None),
        ("transformer", "diffusion_pytorch_model", "proj_out.weight", torch.zeros(3, 4)),
        ("transformer", "diffusion_pytorch_model", "proj_in.weight", torch.zeros(3, 4)),
        ("vae", "diffusion_pytorch_model", "post_quant_conv.bias", None),
        ("text_encoder", "model", "model.norm.weight", None),
        ("text_encoder", "model", "model.layers.9.mlp.up_proj.weight", torch.zeros(3, 4)),
    ],
)
def test_a_wrong_tensor_is_named(
    copy: Path, component: str, file: str, name: str, tensor: Tensor | None
) -> None:
    _edit(copy / component / f"{file}.safetensors", name, tensor)
    canonical = name.removeprefix("model.")
    with pytest.raises(CheckpointError, match=canonical.replace(".", r"\.")):
        load_pipeline(WeightStore(copy), "cpu")


def test_the_vision_tower_and_the_head_may_be_missing(copy: Path, expected: Tensor) -> None:
    file = copy / "text_encoder" / "model.safetensors"
    kept = {
        name: tensor
        for name, tensor in load_file(file).items()
        if not name.startswith(("visual.", "lm_head."))
    }
    assert len(kept) < len(load_file(file))
    save_file(kept, file, metadata={"format": "pt"})
    assert torch.equal(load_pipeline(WeightStore(copy), "cpu").text.encode(PROMPT), expected)


def test_a_checkpoint_that_requires_a_guardrail_is_refused_by_name(copy: Path) -> None:
    profile = copy / "cosmos_serve.json"
    values = json.loads(profile.read_text())
    profile.write_text(json.dumps({**values, "guardrail": "required"}))
    with pytest.raises(GuardrailMissing, match=r"cosmos_serve\.json.*--guardrail off"):
        load_pipeline(WeightStore(copy), "cpu")
    load_pipeline(WeightStore(copy), "cpu", guardrail="off")
