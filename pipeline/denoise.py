"""Noise to latents: the schedule, guidance, and the loop over steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.network.transformer import CosmosTransformer, Evaluate
from pipeline.spec import Sampler, VideoSpec
from pipeline.trigflow import TrigFlow
from pipeline.unipc import UniPC

OnStep = Callable[[int, Tensor | None], None]

GIVEN_FRAME_TIME = 1e-4
"""The noise level that the model was trained to see on a frame that is given."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What every step of one request reads and none changes.

    `given` is [1, T], 1 for a frame that is given. `evaluate` returns the velocity for the prompt
    and, with guidance, that for the negative prompt.
    """

    evaluate: Evaluate
    given: Tensor
    guidance_scale: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """The choices of NVIDIA's program that decide what a seed means there.

    `numpy_noise` and `integer_time` are of UniPC: the noise is drawn with numpy's `RandomState`,
    and the network is told the time in whole thousandths, rounded down, else the exact one.
    `device_noise` is of TrigFlow: the noise is that of the device's generator. Else noise is the
    same on every device.
    """

    numpy_noise: bool = False
    integer_time: bool = False
    device_noise: bool = False


EXACT = Sampling()
NVIDIA = Sampling(numpy_noise=True, integer_time=True, device_noise=True)


@torch.inference_mode()
def denoise(
    transformer: CosmosTransformer,
    scheduler_config: Mapping[str, Any],
    given_latents: Tensor,
    prompt: Tensor,
    negative_prompt: Tensor | None,
    spec: VideoSpec,
    on_step: OnStep,
    sampling: Sampling = EXACT,
) -> Tensor:
    """Make the latents of one video.

    Args:
        scheduler_config: the checkpoint's `scheduler/scheduler_config.json`.
        given_latents: the frames that the video starts with, [1, 16, any number, height / 8,
            width / 8] float32, normalised.
        prompt: [512, text_embed_dim], projected.
        negative_prompt: likewise; None without guidance.
        on_step: called before each step, and after the last, with the number of steps done and
            what the last of them takes to be the clean latents: of the shape of those returned,
            to be read only; None before the first. It may raise to stop.

    Returns:
        [1, 16, T, height / 8, width / 8] float32, as many latent frames as the spec needs.
    """
    _, channels, num_given, height, width = given_latents.shape
    num_frames, device = spec.num_latent_frames, transformer.device
    given_latents = given_latents.to(device)
    latents = noise(spec, (1, channels, num_frames, height, width), device, sampling)
    # The velocity of a given frame is known: it leads from its noise to its latent.
    given_velocity = latents[:, :, :num_given] - given_latents
    given = torch.zeros(1, num_frames, device=device)
    given[:, :num_given] = 1
    prompts = [prompt] if negative_prompt is None else [prompt, negative_prompt]
    conditions = Conditions(
        evaluate=transformer.prepare((num_frames, height, width), prompts),
        given=given,
        guidance_scale=spec.guidance_scale,
    )
    sampler, times = make_sampler(spec, scheduler_config, sampling)
    clean: Tensor | None = None
    # From here on everything is queued: between the first step and the last nothing waits.
    for index, time in enumerate(times):
        on_step(index, clean)
        noisy = torch.cat([given_latents, latents[:, :, num_given:]], dim=2)
        velocity = guided_velocity(noisy, time, conditions)
        velocity[:, :, :num_given] = given_velocity
        latents = sampler.step(velocity, latents)
        del noisy, velocity
        clean = sampler.clean
    on_step(spec.num_inference_steps, clean)
    return latents


def make_sampler(
    spec: VideoSpec, scheduler_config: Mapping[str, Any], sampling: Sampling
) -> tuple[UniPC | TrigFlow, Sequence[float]]:
    """The sampler that the spec asks for, and the time that each step tells the network."""
    if spec.sampler is Sampler.TRIGFLOW:
        trigflow = TrigFlow(spec.num_inference_steps)
        return trigflow, trigflow.times
    unipc = UniPC(scheduler_config, spec.num_inference_steps)
    return unipc, unipc.integer_times if sampling.integer_time else unipc.sigmas[:-1]


def guided_velocity(noisy: Tensor, time: float, conditions: Conditions) -> Tensor:
    """`cond + g * (cond - uncond)`, [1, 16, T, height / 8, width / 8] in at least float32."""
    given = conditions.given
    times = given * GIVEN_FRAME_TIME + (1 - given) * time
    velocity, *unguided = conditions.evaluate(noisy, given, times)
    if not unguided:
        return velocity
    return velocity + conditions.guidance_scale * (velocity - unguided[0])


def noise(
    spec: VideoSpec, shape: tuple[int, ...], device: torch.device, sampling: Sampling
) -> Tensor:
    """What a video is made of, float32 on the device."""
    if spec.sampler is Sampler.UNIPC and sampling.numpy_noise:
        return numpy_noise(spec.seed, shape).to(device)
    if spec.sampler is Sampler.TRIGFLOW and sampling.device_noise:
        generator = torch.Generator(device).manual_seed(spec.seed)
        return torch.randn(shape, generator=generator, dtype=torch.float32, device=device)
    return torch_noise(spec.seed, shape).to(device)


def torch_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """The noise of one seed: from the CPU's generator, so that it is the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def numpy_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """NVIDIA's noise of one seed; `RandomState` takes 32 bits, and torch uses no more."""
    drawn = np.random.RandomState(seed % 2**32).standard_normal(shape)
    return torch.from_numpy(drawn.astype(np.float32))
