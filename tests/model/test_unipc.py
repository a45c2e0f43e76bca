"""The sampler is diffusers', to the bit: its noise levels, and each step of any number of them."""

from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from stand_ins import stand_in
from torch import Tensor

from benchmarks.full_size import SCHEDULER
from pipeline.unipc import UniPC
from weights.store import WeightStore

NUM_STEPS = [1, 2, 3, 4, 12, 35, 36, 50]


def _random(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 16, 3, 8, 12, generator=generator).to(dtype)


def _theirs(config: dict[str, Any], num_steps: int) -> UniPCMultistepScheduler:
    scheduler: UniPCMultistepScheduler = UniPCMultistepScheduler.from_config(config)
    scheduler.set_timesteps(num_steps)
    return scheduler


@pytest.mark.parametrize("num_steps", NUM_STEPS)
def test_the_noise_levels_are_diffusers(num_steps: int) -> None:
    ours, theirs = UniPC(SCHEDULER, num_steps), _theirs(SCHEDULER, num_steps)
    assert torch.equal(torch.tensor(ours.sigmas), theirs.sigmas)
    assert torch.equal(torch.tensor(ours.integer_times), theirs.timesteps * 0.001)


@pytest.mark.parametrize("num_steps", NUM_STEPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("karras", [True, False])
def test_every_step_is_diffusers_to_the_bit(
    num_steps: int, dtype: torch.dtype, karras: bool
) -> None:
    """Of a velocity that the last latents decide, as a network's are; it may be in float64."""
    config = {**SCHEDULER, "use_karras_sigmas": karras}
    ours, theirs = UniPC(config, num_steps), _theirs(config, num_steps)
    mine = other = _random(0)
    for index, timestep in enumerate(theirs.timesteps):
        direction = _random(index + 1, dtype)
        mine = ours.step(mine.sin() + direction, mine)
        other = theirs.step(other.sin() + direction, timestep, other, return_dict=False)[0]
        assert mine.dtype == other.dtype == torch.float32
        assert torch.equal(mine, other), f"step {index} of {num_steps}"
    assert mine.isfinite().all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("solver_order", 3),
        ("solver_type", "bh1"),
        ("prediction_type", "epsilon"),
        ("use_flow_sigmas", False),
        ("thresholding", True),
        ("disable_corrector", [0]),
    ],
)
def test_another_sampler_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"has {name} = "):
        UniPC({**SCHEDULER, name: value}, 4)


def test_the_stand_ins_sampler_is_the_published_one() -> None:
    config = WeightStore(stand_in()).config("scheduler")
    assert UniPC(config, 35).sigmas == UniPC(SCHEDULER, 35).sigmas
