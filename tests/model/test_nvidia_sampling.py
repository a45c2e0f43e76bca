"""With NVIDIA's sampling a seed means what it means in NVIDIA's program, at one step more."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import nvidia_sampler
import pytest
import torch
from nvidia_recipe import Recipe
from stand_ins import stand_in
from torch import Tensor

from benchmarks.full_size import SCHEDULER, TINY, published_weights, random_transformer
from pipeline.denoise import EXACT, NVIDIA, Sampling, denoise, numpy_noise
from pipeline.network.transformer import CosmosTransformer
from pipeline.spec import MAX_STEPS, Pixels, VideoSpec
from pipeline.unipc import UniPC
from server.cli.options import WORKER_SETTINGS
from server.workers.gpu import GpuWorker
from server.workers.loop import WorkerOptions
from server.workers.messages import WorkOrder

CPU = torch.device("cpu")
SPEC = VideoSpec(prompt="", seed=2**32 + 5, num_frames=9, num_inference_steps=6)


@pytest.fixture(scope="module")
def network() -> CosmosTransformer:
    return random_transformer(TINY, CPU, torch.float64)


def random_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """A given latent and the texts of both prompts."""
    generator = torch.Generator().manual_seed(1)
    draw = partial(torch.randn, generator=generator)
    text = (16, TINY.config.text_embed_dim)
    return draw(1, 16, 1, *TINY.latent_size), draw(text), draw(text)


def our_latents(network: CosmosTransformer, sampling: Sampling, spec: VideoSpec = SPEC) -> Tensor:
    given, prompt, negative = random_inputs()
    return denoise(network, SCHEDULER, given, prompt, negative, spec, lambda *_: None, sampling)


@torch.inference_mode()
def nvidias_latents(network: CosmosTransformer) -> Tensor:
    """As NVIDIA's program makes them of 5 steps and the seed 5."""
    given_latent, *texts = random_inputs()
    recipe = Recipe(network.config, published_weights(network), torch.float64)
    given = torch.tensor([[1.0, 0.0, 0.0]])

    def velocity(text: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda noisy, times: recipe.velocity(noisy, given, times, text)

    return nvidia_sampler.sample(
        (velocity(texts[0]), velocity(texts[1])),
        given_latent,
        num_frames=3,
        num_steps=5,
        guidance=7.0,
        seed=5,
    )


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


@pytest.mark.parametrize("num_steps", [2, 12, 36, MAX_STEPS])
def test_the_schedule_is_nvidias_of_one_step_fewer(num_steps: int) -> None:
    """36 evaluations are those of NVIDIA's 35 steps."""
    sigmas, times = nvidia_sampler.schedule(num_steps - 1)
    ours = UniPC(SCHEDULER, num_steps)
    assert ours.sigmas == pytest.approx([*sigmas, 0], abs=1e-7)
    assert ours.integer_times == pytest.approx(times / 1000, abs=1e-7)


def test_latents_are_those_of_nvidias_sampler_and_network(network: CosmosTransformer) -> None:
    expected = nvidias_latents(network)
    assert distance(our_latents(network, NVIDIA), expected) < 1e-6
    # Other noise, exact time and as many steps as NVIDIA's number says are seen.
    fewer = replace(SPEC, num_inference_steps=5)
    assert distance(our_latents(network, Sampling(integer_time=True)), expected) > 0.1
    assert distance(our_latents(network, Sampling(numpy_noise=True)), expected) > 5e-6
    assert distance(our_latents(network, NVIDIA, fewer), expected) > 5e-6


def test_the_noise_is_that_of_numpys_mersenne_twister() -> None:
    noise = numpy_noise(0, (1, 3))
    assert noise.tolist() == [pytest.approx([1.76405235, 0.40015721, 0.97873798])]
    assert torch.equal(numpy_noise(2**32, (1, 3)), noise)


class _Sampled(Exception):
    """Ends a run where its sampling is known."""


@pytest.mark.parametrize(("asked", "sampling"), [(False, EXACT), (True, NVIDIA)])
def test_a_worker_samples_as_its_options_say(
    asked: bool, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any) -> None:
        assert arguments[-1] == sampling
        raise _Sampled

    monkeypatch.setattr("pipeline.generate.denoise", stop)
    worker = GpuWorker("cpu", WorkerOptions(weights=str(stand_in()), nvidia_sampling=asked))
    worker.load(lambda _loading: None)
    media = {"image": [Pixels(96, 64, bytes(96 * 64 * 3))]}
    order = WorkOrder(job_id="one", attempt=1, spec=SPEC, media=media)
    with pytest.raises(_Sampled):
        worker.run(order, lambda _event: None, lambda: False, lambda _index, _jpeg: None)


def test_every_setting_of_workers_is_one_of_their_options() -> None:
    """`LocalPool` passes settings on by name; the devices are its own, and the server asks."""
    own = {"devices", "guardrail_key_file", "guardrail_model"}
    assert {*WORKER_SETTINGS} - own <= {field.name for field in fields(WorkerOptions)}
