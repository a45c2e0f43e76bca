"""The sizes that the pages name are counted here, on models without memory, and measures read."""

import json
from collections.abc import Callable

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from paths import ROOT
from torch import nn
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from benchmarks import hardware
from benchmarks.full_size import FULL
from benchmarks.ratios import step_bytes, step_operations
from pipeline.network.transformer import CosmosTransformer

# The text half of Qwen2.5-VL-7B, which the checkpoint has as its text encoder.
TEXT = Qwen2_5_VLTextConfig(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
)


def gib(module: nn.Module, bytes_of: Callable[[str], int] = lambda name: 2) -> float:
    """What a module's parameters take; in bfloat16 unless told otherwise."""
    return sum(each.numel() * bytes_of(name) for name, each in module.named_parameters()) / 2**30


def network_bytes(name: str) -> int:
    return CosmosTransformer.parameter_dtype(name, torch.bfloat16).itemsize


def test_the_pages_have_the_sizes_of_the_weights() -> None:
    with init_empty_weights():
        network = CosmosTransformer(FULL.config)
        text_model = Qwen2_5_VLTextModel(TEXT)
        text, layers, vae = gib(text_model), gib(text_model.layers), gib(AutoencoderKLWan())
    transformer, projection = gib(network, network_bytes), gib(network.crossattn_proj)
    total = text + transformer + vae
    performance = " ".join((ROOT / "docs" / "performance.md").read_text().split())
    readme = " ".join((ROOT / "README.md").read_text().split())

    assert f"text model {text:.1f} GiB, the transformer {transformer:.1f}" in performance
    assert f"projection of the text is {projection:.1f}, the VAE {vae:.1f}" in performance
    assert f"all {total:.1f} GiB stay on the GPU" in performance
    assert f"With `offload` and `stream` a new prompt moves {layers:.1f} GiB" in performance
    assert f"With `stream` every video moves {transformer + 2 * vae:.1f} GiB" in performance
    assert f"The weights take {total:.1f} GiB in bfloat16" in readme


def test_the_page_has_the_work_of_a_video() -> None:
    operations = FULL.steps * sum(step_operations(FULL).values())
    performance = " ".join((ROOT / "docs" / "performance.md").read_text().split())
    assert (
        f"the work of this program is {operations / 1e15:.1f} PFLOP: {operations / 790e12:.1f} s"
        in (performance)
    )
    moved = step_bytes(FULL)
    residual, heads, gelu = (moved[name] / 1e9 for name in ("residual", "heads", "GELU"))
    assert f"moves {sum(moved.values()) / 1e9:.0f} GB by count: {residual:.0f} GB" in performance
    assert f"{heads:.0f} GB for the norm and turn of the heads, {gelu:.0f} GB" in performance


def test_the_page_has_what_each_of_several_gpus_does() -> None:
    counted = json.loads((ROOT / "benchmarks" / "results" / "parallel-counts.json").read_text())
    performance = (ROOT / "docs" / "performance.md").read_text()
    for name, counts in counted.items():
        step, predicted = counts["a guided step, each rank"], counts["predicted, not measured"]
        sent = step["sent to the ranks of its prompt, GB"]
        team = max(1, int(name.split()[0]) // 2)
        tokens, layers = FULL.tokens / team, FULL.config.num_layers
        # Queries, keys, values and what comes of them, in bfloat16, but for a rank's own part.
        exchanged = 4 * tokens * FULL.config.width * 2 * (team - 1) / team * layers
        assert abs(sent - exchanged / 1e9) <= 1e-3 * sent
        row = (
            f"| {step['attention, TFLOP']:.0f} TFLOP | {step['products, TFLOP']:.0f} TFLOP "
            f"| {sent:.1f} GB | {step['activations, GiB']:.2f} GiB "
            f"| {predicted['step, s']:.2f} s | {predicted['video, s']:.0f} s |"
        )
        assert f"| {name.split()[0]} {row}" in performance


def test_the_page_has_what_the_departures_from_nvidias_sampler_were_measured_to_move() -> None:
    report = json.loads((ROOT / "benchmarks" / "results" / "precision-cpu.json").read_text())
    performance = (ROOT / "docs" / "performance.md").read_text().splitlines()
    for name, measured in report["widths"].items():
        moved = measured["sampling"]
        assert f"| {name} | {moved['35 steps']:.1e} | {moved['exact time']:.1e} |" in performance


def test_the_readme_has_the_table_of_gpus_as_it_is_predicted() -> None:
    """`python -m benchmarks.hardware --page README.md` writes it."""
    readme = (ROOT / "README.md").read_text()
    assert hardware.table() in readme
    assert hardware.page_text(readme) == readme


def test_the_page_has_what_an_h200_measured() -> None:
    results = ROOT / "benchmarks" / "results"
    whole, steps, plans_of = (
        json.loads((results / f"gpu-h200{part}.json").read_text())
        for part in ("", "-steps", "-memory")
    )
    job, memory = whole["job"], plans_of["memory"]
    performance = " ".join((ROOT / "docs" / "performance.md").read_text().split())
    assert f"this video takes {job['all_s']:.1f} s" in performance
    assert f"the 35 steps {job['denoise_s']:.1f}, decoding {job['decode_s']:.1f}" in performance
    for name, figures in (
        ("ours", steps["step"]["fused"]),
        ("ours, with a bfloat16 stream", steps["step"]["bfloat16 residual"]),
        ("ours, without the fused kernels", steps["step"]["plain"]),
        ("diffusers, compiled by block", steps["compiled"]["diffusers"]),
        ("diffusers", steps["diffusers"]["eager"]),
    ):
        assert f"| {name} | {figures['median_s']:.2f} s |" in performance
        assert figures["most_s"] / figures["least_s"] < 1.002
    plans = [memory[plan] for plan in ("resident", "offload", "stream")]
    rows = {"text, a new prompt": "text", "one step": "denoise", "decode": "decode"}
    for name, stage in rows.items():
        figures = [plan[stage] for plan in plans]
        cells = " | ".join(f"{each['seconds']:.2f} s | {each['peak_gib']:.2f}" for each in figures)
        assert f"| {name} | {cells} |" in performance
    assert memory["same frames"] is True


def test_the_page_has_what_a_server_on_an_h200_took() -> None:
    results = ROOT / "benchmarks" / "results"
    performance = " ".join((ROOT / "docs" / "performance.md").read_text().split())
    served = json.loads((results / "served-h200.json").read_text())
    first, next_one = served["videos"]
    assert f"ready {served['ready_s']:.1f} s after its start" in performance
    for name, key in (("the steps", "denoise"), ("what is left of ffmpeg", "encode")):
        seconds = [video["metrics"]["stage_seconds"][key] for video in (first, next_one)]
        assert name in performance
        assert f"| {seconds[0]:.1f} | {seconds[1]:.1f} |" in performance
    assert f"| **{first['fetched_s']:.1f}** | **{next_one['fetched_s']:.1f}** |" in performance
    assert {video["frames_in_file"] for video in served["videos"]} == {93}
    moved = json.loads((results / "stand-in-h200.json").read_text())["cases"].values()
    off = [case["off_px"] for case in moved if "off_px" in case]
    assert (len(off), max(off)) == (60, 0)
    previews = json.loads((results / "preview-h200.json").read_text())["side by side"]
    assert previews["same_bytes"] is True
    for kind in ("off", "on"):
        assert f"{previews[kind]['seconds'][0]:.2f} s" in performance
