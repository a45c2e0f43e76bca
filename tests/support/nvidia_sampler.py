"""NVIDIA's sampler as a plain reference: its noise, its schedule and its loop.

Written after NVIDIA's program and sharing no code with the pipeline. The solver is diffusers'
UniPC, of which NVIDIA's is a copy, with NVIDIA's sigmas given. Distilled models have another.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""The network: noisy latents and the time of each frame [1, T], 0 to 1, to a velocity."""


def schedule(num_steps: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The sigmas and times that NVIDIA's program makes of `num_steps`: one more than that."""
    ramp = np.arange(num_steps + 1) / num_steps
    high, low = 200 ** (1 / 7), 0.01 ** (1 / 7)
    levels = (high + ramp * (low - high)) ** 7
    sigmas = levels / (1 + levels)
    return sigmas, (sigmas * 1000).astype(np.int64)


def sample(
    velocity: tuple[Velocity, Velocity],
    given_latent: Tensor,
    *,
    num_frames: int,
    num_steps: int,
    guidance: float,
    seed: int,
) -> Tensor:
    """The latents of a video, [1, 16, T, h, w] float32.

    `velocity` is with the prompt and with the negative prompt; `given_latent` is [1, 16, 1, h, w].
    """
    _, channels, _, height, width = given_latent.shape
    shape = (1, channels, num_frames, height, width)
    noise = torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))
    given = torch.zeros(1, 1, num_frames, 1, 1)
    given[:, :, 0] = 1
    conditional, unconditional = velocity
    sigmas, times = schedule(num_steps)
    scheduler: Any = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True
    )
    scheduler.set_timesteps(sigmas=sigmas)
    latents: Tensor = noise
    for time, timestep in zip(times, scheduler.timesteps, strict=True):
        noisy = given_latent * given + latents * (1 - given)
        frame_times = (0.1 * given + float(time) * (1 - given)).flatten(1) * 0.001
        cond, uncond = conditional(noisy, frame_times), unconditional(noisy, frame_times)
        guided = cond + guidance * (cond - uncond)
        guided = (noise - given_latent) * given + guided * (1 - given)
        latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
    return latents


def distilled_angles(num_steps: int) -> list[float]:
    """The angles that NVIDIA's program samples distilled models at."""
    trained = [math.pi / 2, math.atan(15), math.atan(5), math.atan(5 / 3)]
    if num_steps <= len(trained):
        return [*trained[:num_steps], 0.0]
    even = np.linspace(1 / num_steps, 1.0, num_steps)
    shifted = 5.0 * even / (1 + 4.0 * even)
    angles = [math.pi / 2 if t >= 1.0 else math.atan(t / (1 - t)) for t in shifted]
    return [*angles[::-1], 0.0]


def sample_distilled(
    velocity: Velocity, noise: Tensor, given_latents: Tensor, num_steps: int
) -> Tensor:
    """The latents of a video by NVIDIA's TrigFlow, [1, 16, T, h, w] float64.

    `given_latents` is [1, 16, any number, h, w].
    """
    num_given, angles = given_latents.shape[2], distilled_angles(num_steps)
    noise = noise.double()
    latents = noise
    for angle, following in pairwise(angles):
        scale = 1 / (math.cos(angle) + math.sin(angle))
        noisy = torch.cat([given_latents.double(), scale * latents[:, :, num_given:]], dim=2)
        times = torch.full((1, noise.shape[2]), math.sin(angle) * scale, dtype=torch.float64)
        times[:, :num_given] = 1e-4
        clean = scale * latents - math.sin(angle) * scale * velocity(noisy, times)
        clean = torch.cat([given_latents.double(), clean[:, :, num_given:]], dim=2)
        latents = math.cos(following) * clean + math.sin(following) * noise
    return clean
