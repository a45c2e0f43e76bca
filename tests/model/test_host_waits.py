"""Between the first step and the last the host only queues work: it waits for no result."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from host_waits import HostWaits, Waited
from stand_ins import stand_in
from torch import Tensor

from benchmarks.full_size import SCHEDULER
from pipeline import denoise as denoise_module
from pipeline.denoise import EXACT, NVIDIA, Sampling, denoise
from pipeline.network.transformer import CosmosTransformer, TransformerConfig
from pipeline.spec import VideoSpec
from weights.store import WeightStore

META = torch.device("meta")


def _denoise(device: torch.device, guidance: float, sampling: Sampling, on_step: Any) -> Tensor:
    config = TransformerConfig.from_json(WeightStore(stand_in()).config("transformer"))
    with torch.device(device):
        network = CosmosTransformer(config).requires_grad_(False).eval()
        prompt = torch.empty(512, config.text_embed_dim)
        given = torch.empty(1, 16, 1, 8, 12)
    spec = VideoSpec(
        prompt="", seed=0, num_frames=9, num_inference_steps=5, guidance_scale=guidance
    )
    negative = prompt if spec.guided else None
    return denoise(network, SCHEDULER, given, prompt, negative, spec, on_step, sampling)


def _waits(guidance: float = 7.0, sampling: Sampling = EXACT) -> list[str]:
    """The operations that would wait, from the first call of `on_step` to the last."""
    watch = HostWaits()

    def on_step(index: int, _clean: Tensor | None) -> None:
        watch.watching = index < 5

    with watch:
        latents = _denoise(META, guidance, sampling, on_step)
    assert latents.device == META and not watch.watching
    assert watch.operations > 1000, "the loop was not watched"
    return watch.found


@pytest.mark.parametrize("guidance", [7.0, 1.0])
@pytest.mark.parametrize("sampling", [EXACT, NVIDIA], ids=["exact", "nvidia"])
def test_no_step_reads_a_number_or_copies_from_or_to_the_host(
    guidance: float, sampling: Sampling
) -> None:
    assert _waits(guidance, sampling) == []


MISTAKES: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda velocity: velocity.sum().item(),
    "cpu": lambda velocity: velocity.cpu(),
    "bool": lambda velocity: bool(velocity.isfinite().all()),
    "nonzero": lambda velocity: velocity.nonzero(),
    "mask": lambda velocity: velocity[velocity > 0],
    "sigma.to(device)": lambda velocity: torch.ones(()).to(velocity.device),
    "copy_": lambda velocity: velocity.copy_(torch.zeros(velocity.shape)),
    "solve": lambda velocity: torch.linalg.solve(velocity[0, 0, 0, :2, :2], velocity[0, 0, 0, :2]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_step_that_waits_is_found(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = denoise_module.guided_velocity

    def waiting(*arguments: Any) -> Tensor:
        velocity = right(*arguments)
        MISTAKES[mistake](velocity)
        return velocity

    monkeypatch.setattr(denoise_module, "guided_velocity", waiting)
    try:
        found = _waits()
    except Waited:
        return
    assert found != []


def test_the_sampler_of_diffusers_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the project has its own."""

    class Theirs:
        def __init__(self, config: dict[str, Any], num_steps: int) -> None:
            self._scheduler: Any = UniPCMultistepScheduler.from_config(config)
            self._scheduler.set_timesteps(num_steps)
            self.sigmas = self._scheduler.sigmas.tolist()

        def step(self, velocity: Tensor, latents: Tensor) -> Tensor:
            self._scheduler.set_begin_index(0)
            stepped: Tensor = self._scheduler.step(velocity, 0, latents, return_dict=False)[0]
            self.clean = stepped
            return stepped

    monkeypatch.setattr(denoise_module, "UniPC", Theirs)
    assert {"aten._to_copy.default", "aten._linalg_check_errors.default"} <= set(_waits())


@pytest.mark.gpu
def test_on_a_gpu_no_step_waits() -> None:
    def on_step(index: int, _clean: Tensor | None) -> None:
        torch.cuda.set_sync_debug_mode("error" if index < 5 else "default")

    try:
        _denoise(torch.device("cuda"), 7.0, EXACT, on_step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
