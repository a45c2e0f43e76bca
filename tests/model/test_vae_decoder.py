"""The decoder for a GPU computes what diffusers' does; its kernel, what the plain form does.

Triton's interpreter has to be chosen before Triton is imported, so it runs in a process of its own:
`causal_cases.py` holds the cases, and prints the distances that are judged here.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d
from modules import load_vae
from paths import SUPPORT
from stand_ins import stand_in
from torch import Tensor

from pipeline import vae as vae_module
from pipeline.vae_decoder import FrameDecoder, can_decode
from weights.store import WeightStore

FLOAT32 = 3e-7
"""Relative L2 to float64 of a float32 result: a few roundings."""
SMALL = {"base_dim": 8, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1}


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def cases() -> dict[str, dict[str, Any]]:
    program = SUPPORT / "causal_cases.py"
    run = subprocess.run(
        [sys.executable, program], env={"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, dict[str, Any]] = json.loads(run.stdout)
    assert len(found) == 16
    return found


def test_the_kernel_is_float64s_up_to_rounding(cases: dict[str, dict[str, Any]]) -> None:
    wide = {name: case for name, case in cases.items() if name.endswith("torch.float32")}
    assert {name: c for name, c in wide.items() if c["fused"] > FLOAT32} == {}


def test_the_kernel_errs_no_more_in_bfloat16_than_diffusers(
    cases: dict[str, dict[str, Any]],
) -> None:
    """It rounds once, as the plain form does. The interpreter cuts off: some twice as much."""
    narrow = {name: case for name, case in cases.items() if name.endswith("torch.bfloat16")}
    assert {name: c for name, c in narrow.items() if c["plain"] > 0.7 * c["diffusers"]} == {}
    assert {name: c for name, c in narrow.items() if c["fused"] > 2.5 * c["plain"]} == {}


def test_what_is_copied_kept_and_around_is_right_to_the_bit(
    cases: dict[str, dict[str, Any]],
) -> None:
    exact = ("copies", "border", "kept")
    assert {name: c for name, c in cases.items() if not all(c[key] for key in exact)} == {}


def test_the_plain_form_is_diffusers_to_the_bit(cases: dict[str, dict[str, Any]]) -> None:
    wide = {name: case for name, case in cases.items() if name.endswith("torch.float32")}
    assert wide and all(case["plain is diffusers"] for case in wide.values())


# The whole decoder, by the plain form.


def _small(**config: Any) -> AutoencoderKLWan:
    """Of the published depth in time and space, with random weights that keep numbers in range."""
    torch.manual_seed(0)
    vae: AutoencoderKLWan = AutoencoderKLWan(**{**SMALL, **config})
    return vae.requires_grad_(False).eval()


def _latents(num_frames: int, dtype: torch.dtype) -> Tensor:
    shape = (1, 16, num_frames, 8, 12)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def _diffusers(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    num_kept = sum(isinstance(m, WanCausalConv3d) for m in vae.decoder.modules())
    kept: list[Any] = [None] * num_kept
    decoded = [
        vae.decoder(latent, feat_cache=kept, feat_idx=[0], first_chunk=index == 0)
        for index, latent in enumerate(torch.split(latents, 1, dim=2))
    ]
    return torch.cat(decoded, dim=2)


def _ours(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    decoder = FrameDecoder(vae.decoder)
    return torch.cat([decoder.decode(latent) for latent in torch.split(latents, 1, dim=2)], dim=2)


@pytest.mark.parametrize("num_frames", [1, 2, 4])
def test_decoding_frame_by_frame_is_diffusers_decoding(num_frames: int) -> None:
    ours, theirs = (f(_small(), _latents(num_frames, torch.float32)) for f in (_ours, _diffusers))
    assert ours.shape == theirs.shape == (1, 3, 4 * num_frames - 3, 64, 96)
    assert theirs.std() > 0.01
    assert torch.equal(ours, theirs)


def test_the_stand_ins_decoder_is_decoded_alike() -> None:
    vae = AutoencoderKLWan.from_pretrained(stand_in() / "vae").eval()
    latents = _latents(3, torch.float32)
    assert torch.equal(_ours(vae, latents), _diffusers(vae, latents))


def test_decoding_errs_no_more_in_bfloat16_than_diffusers() -> None:
    narrow, wide = _small(), _small()
    for parameter in narrow.parameters():
        parameter.data = parameter.data.bfloat16()
    wide.load_state_dict({name: t.float() for name, t in narrow.state_dict().items()})
    latents = _latents(3, torch.bfloat16)
    exact = _diffusers(wide, latents.float())
    ours, theirs = (
        float((f(narrow, latents).float() - exact).norm() / exact.norm())
        for f in (_ours, _diffusers)
    )
    assert ours <= theirs


def test_other_decoders_are_left_to_diffusers() -> None:
    assert can_decode(_small())
    assert can_decode(load_vae(WeightStore(stand_in())))
    assert not can_decode(_small(is_residual=True, dim_mult=[1, 1, 1, 1]))
    assert not can_decode(_small(patch_size=2, in_channels=12, out_channels=12))


@pytest.mark.parametrize(("device", "is_ours"), [("cpu", False), ("cuda", True)])
def test_a_gpu_decodes_by_ours(device: str, is_ours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoencoderKLWan, "device", torch.device(device))
    decode = vae_module._frame_decoder(_small())
    assert isinstance(getattr(decode, "__self__", None), FrameDecoder) == is_ours
