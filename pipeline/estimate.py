"""How long what is left of a video will take, from what this process has measured so far.

A denoising step costs a * T + b * T**2 operations for T latent frames: matrix products grow with
the tokens, self-attention with their square. The two constants follow from the network's shape, so
one measured step predicts any other frame count. No torch here.
"""

from dataclasses import dataclass, field

_SMOOTHING = 0.3
"""The weight of the newest measurement in the running rate."""


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


@dataclass(slots=True)
class Estimator:
    """The measured rates of one process, and what they predict."""

    step_cost: StepCost
    _seconds_per_operation: float | None = None
    _seconds_per_decoded: float | None = field(default=None)

    def measured_step(self, seconds: float, num_latent_frames: int, num_branches: int) -> None:
        """Learn from one denoising step."""
        operations = num_branches * self.step_cost.operations(num_latent_frames)
        self._seconds_per_operation = _blend(self._seconds_per_operation, seconds / operations)

    def measured_decode(self, seconds: float, num_latent_frames: int) -> None:
        """Learn from decoding (and encoding) one video."""
        self._seconds_per_decoded = _blend(self._seconds_per_decoded, seconds / num_latent_frames)

    def step_seconds(self, num_latent_frames: int, num_branches: int) -> float | None:
        """One denoising step, or None before the first was measured."""
        if self._seconds_per_operation is None:
            return None
        operations = num_branches * self.step_cost.operations(num_latent_frames)
        return self._seconds_per_operation * operations

    def decode_seconds(self, num_latent_frames: int) -> float:
        """Decoding one video; 0 before the first was measured."""
        return (self._seconds_per_decoded or 0.0) * num_latent_frames

    def seconds_left(
        self, steps_left: int, num_latent_frames: int, num_branches: int
    ) -> float | None:
        """The steps left and the decoding after them, or None before a step was measured."""
        per_step = self.step_seconds(num_latent_frames, num_branches)
        if per_step is None:
            return None
        return steps_left * per_step + self.decode_seconds(num_latent_frames)


def _blend(old: float | None, new: float) -> float:
    return new if old is None else (1 - _SMOOTHING) * old + _SMOOTHING * new
