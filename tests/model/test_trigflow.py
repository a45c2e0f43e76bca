"""The sampler of distilled checkpoints is NVIDIA's: its times, its steps, its noise."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import nvidia_sampler
import pytest
import torch
from nvidia_recipe import Recipe
from torch import Tensor

from benchmarks.full_size import SCHEDULER, TINY, published_weights, random_transformer
from pipeline.denoise import EXACT, NVIDIA, Sampling, denoise, noise, torch_noise
from pipeline.errors import InvalidSpec
from pipeline.network.transformer import CosmosTransformer
from pipeline.spec import Sampler, VideoSpec
from pipeline.trigflow import TrigFlow

CPU = torch.device("cpu")
SPEC = VideoSpec(
    prompt="",
    seed=5,
    num_frames=9,
    num_inference_steps=6,
    guidance_scale=1.0,
    conditioning=None,
    sampler=Sampler.TRIGFLOW,
)


def angle(time: float) -> float:
    """NVIDIA's name of a time."""
    return math.pi / 2 if time == 1 else math.atan(time / (1 - time))


def test_four_steps_are_at_nvidias_numbers() -> None:
    expected = [math.pi / 2, math.atan(15), math.atan(5), math.atan(5 / 3)]
    assert [angle(time) for time in TrigFlow(4).times] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 20])
def test_other_numbers_of_steps_are_as_nvidias_program_has_them(num_steps: int) -> None:
    *expected, last = nvidia_sampler.distilled_angles(num_steps)
    assert last == 0
    assert [angle(time) for time in TrigFlow(num_steps).times] == pytest.approx(expected, abs=1e-9)


@pytest.fixture(scope="module")
def network() -> CosmosTransformer:
    return random_transformer(TINY, CPU, torch.float64)


def our_latents(network: CosmosTransformer, given: Tensor, text: Tensor, spec: VideoSpec) -> Tensor:
    return denoise(network, SCHEDULER, given, text, None, spec, lambda *_: None)


@torch.inference_mode()
@pytest.mark.parametrize("num_given", [0, 1, 2])
@pytest.mark.parametrize("num_steps", [1, 4, 6])
def test_latents_are_those_of_nvidias_sampler_and_network(
    network: CosmosTransformer, num_given: int, num_steps: int
) -> None:
    draw: Any = partial(torch.randn, generator=torch.Generator().manual_seed(1))
    given = draw(1, 16, num_given, *TINY.latent_size)
    text = draw(16, TINY.config.text_embed_dim)
    recipe = Recipe(network.config, published_weights(network), torch.float64)
    mask = torch.zeros(1, 3)
    mask[:, :num_given] = 1
    expected = nvidia_sampler.sample_distilled(
        lambda noisy, times: recipe.velocity(noisy, mask, times, text),
        torch_noise(SPEC.seed, (1, 16, 3, *TINY.latent_size)),
        given,
        num_steps,
    )
    spec = replace(SPEC, num_inference_steps=num_steps)
    ours = our_latents(network, given, text, spec)
    assert ours.dtype == torch.float32
    assert float((ours - expected).norm() / expected.norm()) < 1e-6
    fewer = our_latents(network, given, text, replace(spec, num_inference_steps=num_steps + 1))
    assert float((fewer - expected).norm() / expected.norm()) > 1e-3


@pytest.mark.parametrize("sampling", [EXACT, NVIDIA])
def test_the_noise_is_never_numpys(sampling: Sampling) -> None:
    """NVIDIA draws it on the device; on a CPU that is what we do everywhere."""
    drawn = noise(SPEC, (1, 16, 3, 4, 4), CPU, sampling)
    assert torch.equal(drawn, torch_noise(SPEC.seed, (1, 16, 3, 4, 4)))
    other = noise(replace(SPEC, sampler=Sampler.UNIPC), (1, 16, 3, 4, 4), CPU, NVIDIA)
    assert not torch.equal(drawn, other)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_inference_steps": 21}, "num_inference_steps is 21; it must be from 1 to 20."),
        (
            {"guidance_scale": 7.0},
            "guidance_scale is 7.0; a distilled model has no guidance, which is 1.",
        ),
    ],
)
def test_what_a_distilled_model_does_not_take_is_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSpec, match=f"^{message}$"):
        replace(SPEC, **values)


def test_each_sampler_has_its_defaults() -> None:
    for sampler, steps, guidance in ((Sampler.UNIPC, 35, 7), (Sampler.TRIGFLOW, 10, 1)):
        assert (sampler.default_steps, sampler.default_guidance) == (steps, guidance)
