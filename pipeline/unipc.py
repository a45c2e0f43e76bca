"""UniPC of order 2: the noise levels of one request, and the step from each to the next.

The arithmetic is that of diffusers' `UniPCMultistepScheduler`, whose every step copies numbers to
the GPU and reads one back, for which the host waits. Here what follows from the noise levels alone
is computed once, as Python numbers, and a step does nothing but queue work.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

_REQUIRED_SETTINGS: Mapping[str, Any] = {
    "solver_order": 2,
    "solver_type": "bh2",
    "predict_x0": True,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "lower_order_final": True,
    "disable_corrector": [],
    "solver_p": None,
    "thresholding": False,
}


@dataclass(frozen=True, slots=True)
class _Interval:
    """What leads from one noise level to the next: the same for predictor and corrector.

    `kept` is the weight of the latents and `taken` that of the clean ones. `ratio` is how far the
    level before lies, in units of this interval; None in order 1, which does not look there.
    `weights` are the corrector's, of the slope from the level before and of that to the next.
    """

    kept: float
    taken: float
    ratio: float | None
    weights: tuple[float, float]


class UniPC:
    """The sampler of one request.

    Args:
        config: the checkpoint's `scheduler/scheduler_config.json`.
        num_steps: how often the network is evaluated, at least 1.

    Raises:
        ValueError: the configuration is that of another sampler.
    """

    def __init__(self, config: Mapping[str, Any], num_steps: int) -> None:
        scheduler: UniPCMultistepScheduler = UniPCMultistepScheduler.from_config(dict(config))
        for name, wanted in _REQUIRED_SETTINGS.items():
            if scheduler.config[name] != wanted:
                raise ValueError(
                    f"scheduler/scheduler_config.json has {name} = {scheduler.config[name]!r}; "
                    f"the sampler built here has {wanted!r}."
                )
        scheduler.set_timesteps(num_steps)
        sigmas: Tensor = scheduler.sigmas
        self.sigmas: tuple[float, ...] = tuple(sigmas.tolist())
        """The noise levels, one more than steps: the last is where the last step leads."""
        self.integer_times: tuple[float, ...] = tuple((scheduler.timesteps * 0.001).tolist())
        """The noise levels of the steps in whole thousandths, rounded down."""
        # The first step has no level before it, and the last goes to where noise is nought.
        orders = [min(2, index + 1, num_steps - index) for index in range(num_steps)]
        self._intervals = [_interval(sigmas, *step) for step in enumerate(orders)]
        self._index = 0
        self._start: Tensor | None = None
        self._clean: list[Tensor] = []

    def step(self, velocity: Tensor, latents: Tensor) -> Tensor:
        """The latents at the next noise level, in the dtype of `latents`.

        Args:
            velocity: the network's, at the level that `latents` are at.
            latents: what the last step returned; noise, at first.
        """
        clean = latents - self.sigmas[self._index] * velocity
        slope: Tensor | None
        if self._start is not None:
            before = self._intervals[self._index - 1]
            slope = before.weights[1] * (clean - self._clean[-1])
            if before.ratio is not None:
                slope = before.weights[0] * self._slope(before.ratio) + slope
            latents = self._advance(self._start, before, slope)
        self._start = latents
        self._clean = [*self._clean[-1:], clean]
        interval = self._intervals[self._index]
        self._index += 1
        slope = None if interval.ratio is None else 0.5 * self._slope(interval.ratio)
        return self._advance(latents, interval, slope)

    @property
    def clean(self) -> Tensor:
        """What the last step took to be the clean latents."""
        return self._clean[-1]

    def _slope(self, ratio: float) -> Tensor:
        """How the clean latents changed between the last two levels."""
        return (self._clean[0] - self._clean[1]) / ratio

    def _advance(self, start: Tensor, interval: _Interval, slope: Tensor | None) -> Tensor:
        latents = interval.kept * start - interval.taken * self._clean[-1]
        if slope is not None:
            latents = latents - interval.taken * slope
        return latents.to(start.dtype)


def _interval(sigmas: Tensor, index: int, order: int) -> _Interval:
    """The numbers of the step from `sigmas[index]`, each rounded as diffusers rounds it."""
    length = _noise_ratio(sigmas[index + 1]) - _noise_ratio(sigmas[index])
    growth = torch.expm1(-length)
    kept, taken = sigmas[index + 1] / sigmas[index], (1 - sigmas[index + 1]) * growth
    if order == 1:
        return _Interval(float(kept), float(taken), None, (0.0, 0.5))
    ratio = (_noise_ratio(sigmas[index - 1]) - _noise_ratio(sigmas[index])) / length
    one = torch.ones(())
    first = growth / -length - 1
    second = first / -length - 1 / 2
    weights = torch.linalg.solve(
        torch.stack([torch.stack([one, one]), torch.stack([ratio, one])]),
        torch.stack([first / growth, second * 2 / growth]),
    )
    earlier, newest = weights.tolist()
    return _Interval(float(kept), float(taken), float(ratio), (earlier, newest))


def _noise_ratio(sigma: Tensor) -> Tensor:
    """The logarithm of signal over noise at a level."""
    return torch.log(1 - sigma) - torch.log(sigma)
