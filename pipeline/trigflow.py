"""NVIDIA's sampler of distilled checkpoints: a few steps, each of which makes the whole video.

NVIDIA writes it by angles: the latents at the angle a are cos(a) clean + sin(a) noise, and the
network is shown them divided by cos(a) + sin(a). That is (1 - t) clean + t noise for
t = sin(a) / (cos(a) + sin(a)), which is the network's own time. So here all is written in t.
"""

from torch import Tensor

_TRAINED_STEPS = 4
_SHIFT = 5.0
"""How much the steps lean towards the noise."""


class TrigFlow:
    """The sampler of one request.

    Args:
        num_steps: how often the network is evaluated, at least 1.
    """

    def __init__(self, num_steps: int) -> None:
        # Fewer steps than the checkpoint was trained for are the first ones of those.
        spread = max(num_steps, _TRAINED_STEPS)
        even = (1 - index / spread for index in range(num_steps))
        self.times: tuple[float, ...] = tuple(_SHIFT * t / (1 + (_SHIFT - 1) * t) for t in even)
        """The noise levels of the steps, from 1 down."""
        self._index = 0
        self._noise: Tensor | None = None
        self.clean: Tensor
        """What the last step took to be the clean latents."""

    def step(self, velocity: Tensor, latents: Tensor) -> Tensor:
        """The latents at the next noise level: what is clean by now, and the noise of the start.

        Args:
            velocity: the network's, at the level that `latents` are at.
            latents: what the last step returned; noise, at first.
        """
        if self._noise is None:
            self._noise = latents
        self.clean = latents - self.times[self._index] * velocity
        self._index += 1
        level = self.times[self._index] if self._index < len(self.times) else 0.0
        return ((1 - level) * self.clean + level * self._noise).to(latents.dtype)
