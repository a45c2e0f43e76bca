"""How long what is left of a video will take, from what this process has measured so far.

A denoising step costs a * T + b * T**2 operations for T latent frames: matrix products grow with
the tokens, self-attention with their square. The two constants follow from the network's shape, so
one measured step predicts any other frame count. No torch here.
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

_NUM_MEASUREMENTS = 9
"""The newest measurements, whose median is the rate: a first step that warms up does not count."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """Operations of one network evaluation: `linear` a latent frame, `quadratic` a frame pair."""

    linear: float
    quadratic: float

    @classmethod
    def of(
        cls, *, width: int, mlp_ratio: float, layers: int, text_tokens: int, frame_tokens: int
    ) -> "StepCost":
        """The cost for a transformer of this shape (two operations a multiply-add)."""
        # self-attention has 4 square matrices, cross-attention 2 on the video's side
        products = 2 * width * width * (4 + 2 + 2 * mlp_ratio) + 4 * text_tokens * width
        return cls(
            linear=layers * products * frame_tokens,
            quadratic=layers * 4 * width * frame_tokens**2,
        )

    def operations(self, num_latent_frames: int) -> float:
        return self.linear * num_latent_frames + self.quadratic * num_latent_frames**2


def _measurements() -> deque[float]:
    return deque(maxlen=_NUM_MEASUREMENTS)


@dataclass(frozen=True, slots=True)
class Estimator:
    """The measured rates of one process, and what they predict."""

    step_cost: StepCost
    _seconds_per_operation: deque[float] = field(default_factory=_measurements)
    _seconds_per_decoded: deque[float] = field(default_factory=_measurements)

    def measured_step(self, seconds: float, num_latent_frames: int, num_branches: int) -> None:
        """Learn from one denoising step."""
        operations = num_branches * self.step_cost.operations(num_latent_frames)
        self._seconds_per_operation.append(seconds / operations)

    def measured_decode(self, seconds: float, num_latent_frames: int) -> None:
        """Learn from decoding (and encoding) one video."""
        self._seconds_per_decoded.append(seconds / num_latent_frames)

    def seconds_left(
        self, steps_left: int, num_latent_frames: int, num_branches: int
    ) -> float | None:
        """The steps left and the decoding after them; None while what is left was never measured.

        Beside steps, decoding counts as nothing until it was measured once.
        """
        decoding = self._seconds_per_decoded
        decode_seconds = median(decoding) * num_latent_frames if decoding else 0.0
        if steps_left == 0:
            return decode_seconds if decoding else None
        if not self._seconds_per_operation:
            return None
        operations = steps_left * num_branches * self.step_cost.operations(num_latent_frames)
        return median(self._seconds_per_operation) * operations + decode_seconds
