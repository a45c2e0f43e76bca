"""One-frame encoding and latent-by-latent decoding give the bits of the whole."""

import random
from itertools import islice

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d
from modules import load_vae
from stand_ins import stand_in
from torch import Tensor

from pipeline.causal_convolution import OneDnnConv3d
from pipeline.spec import Pixels
from pipeline.vae import decode, encode, to_frames, to_video
from weights.store import WeightStore

WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    return load_vae(WeightStore(stand_in()))


def _pixels(seed: int = 0) -> Pixels:
    return Pixels(WIDTH, HEIGHT, random.Random(seed).randbytes(WIDTH * HEIGHT * 3))


def _latents(num_frames: int = 3, seed: int = 0) -> Tensor:
    shape = (1, 16, num_frames, HEIGHT // 8, WIDTH // 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def _decoded_whole(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """[1, 3, frames, height, width] by the VAE's own loop, as diffusers' pipeline calls it."""
    mean = torch.tensor(vae.config["latents_mean"]).view(1, 16, 1, 1, 1)
    inverse_std = 1.0 / torch.tensor(vae.config["latents_std"]).view(1, 16, 1, 1, 1)
    video: Tensor = vae.decode(latents / inverse_std + mean, return_dict=False)[0]
    return video


@torch.inference_mode()
def test_the_latent_of_one_frame_is_the_first_of_a_longer_video(vae: AutoencoderKLWan) -> None:
    pixels = _pixels()
    rgb = torch.frombuffer(bytearray(pixels.rgb), dtype=torch.uint8).view(HEIGHT, WIDTH, 3)
    first = rgb.permute(2, 0, 1)[None, :, None].float() / 255
    video = torch.cat([first, torch.zeros_like(first).repeat(1, 1, 8, 1, 1)], dim=2)
    latents = vae.encode(2 * video - 1).latent_dist.mode()
    mean = torch.tensor(vae.config["latents_mean"]).view(1, 16, 1, 1, 1)
    std = torch.tensor(vae.config["latents_std"]).view(1, 16, 1, 1, 1)
    expected = (latents[:, :, :1] - mean) * (1.0 / std)
    assert latents.shape[2] == 3
    assert torch.equal(encode(vae, to_video([pixels])), expected)


@torch.inference_mode()
def test_the_latents_of_five_pictures_are_the_first_of_a_longer_video(
    vae: AutoencoderKLWan,
) -> None:
    pictures = [_pixels(seed) for seed in range(9)]
    assert torch.equal(
        encode(vae, to_video(pictures[:5])), encode(vae, to_video(pictures))[:, :, :2]
    )


def test_streamed_decoding_is_bit_equal_to_decoding_the_whole(vae: AutoencoderKLWan) -> None:
    latents = _latents()
    streamed = list(decode(vae, latents))
    assert len(streamed) == 9
    np.testing.assert_array_equal(
        np.stack(streamed), np.stack(list(to_frames(_decoded_whole(vae, latents))))
    )


def test_frames_come_as_their_latent_frame_is_decoded(vae: AutoencoderKLWan) -> None:
    calls: list[int] = []
    handle = vae.decoder.register_forward_hook(lambda *_: calls.append(1))
    counts = [len(calls) for _ in decode(vae, _latents())]
    handle.remove()
    assert counts == [1, 2, 2, 2, 2, 3, 3, 3, 3]


@pytest.mark.parametrize("frames_taken", [1, 3, 6])
def test_a_decode_given_up_half_way_leaves_nothing_for_the_next(
    vae: AutoencoderKLWan, frames_taken: int
) -> None:
    before = list(decode(vae, _latents(seed=1)))
    given_up = decode(vae, _latents(seed=2))
    assert len(list(islice(given_up, frames_taken))) == frames_taken
    after = list(decode(vae, _latents(seed=1)))
    np.testing.assert_array_equal(np.stack(before), np.stack(after))
    # Also while the other one is still half-way, and when that one then goes on.
    rest = list(given_up)
    whole = list(decode(vae, _latents(seed=2)))
    np.testing.assert_array_equal(np.stack(rest), np.stack(whole[frames_taken:]))


def test_levels_are_rounded_and_out_of_range_is_clamped_before() -> None:
    values = torch.tensor([-1.0, 1.0, 0.0, 0.0038, 0.0040])
    frames = list(to_frames(values.view(1, 1, 1, 1, 5).expand(1, 3, 1, 1, 5)))
    assert frames[0][0, :, 0].tolist() == [0, 255, 128, 128, 128]
    # truncation would have made every level but the ends darker
    assert next(to_frames(torch.full((1, 3, 1, 1, 1), 0.999)))[0, 0, 0] == 255


def test_decoded_frames_stay_in_range(vae: AutoencoderKLWan) -> None:
    """The stand-in's decoder overshoots: unclamped, levels would wrap around."""
    latents = 4 * _latents()
    whole = _decoded_whole(vae, latents)
    assert float(whole.max()) == 1.0 or float(whole.min()) == -1.0
    np.testing.assert_array_equal(
        np.stack(list(decode(vae, latents))), np.stack(list(to_frames(whole)))
    )


@torch.inference_mode()
def test_convolutions_by_onednn_err_by_rounding_alone(vae: AutoencoderKLWan) -> None:
    """Over several chunks: the first, the second, whose cache says so, and those after it."""
    plain, exact = (AutoencoderKLWan.from_pretrained(stand_in() / "vae") for _ in range(2))
    exact.double()
    kinds = [{type(m) for m in v.modules() if isinstance(m, WanCausalConv3d)} for v in (vae, plain)]
    assert kinds == [{OneDnnConv3d}, {WanCausalConv3d}]
    latents = _latents(num_frames=5)
    video = exact.decode(latents.double()).sample
    assert video.shape == (1, 3, 17, HEIGHT, WIDTH)
    ours, theirs = (_error(v.decode(latents).sample, video) for v in (vae, plain))
    assert ours < 3 * theirs < 1e-4
    again = exact.encode(video).latent_dist.mode()
    assert again.shape == latents.shape
    ours, theirs = (_error(v.encode(video.float()).latent_dist.mode(), again) for v in (vae, plain))
    assert ours < 3 * theirs < 1e-4


def _error(values: Tensor, exact: Tensor) -> float:
    """Relative L2."""
    return float((values - exact).norm() / exact.norm())
