"""The work of a video, counted: what one measured video says of another. No torch here.

A step costs a * T + b * T**2 operations for T latent frames: matrix products grow with the tokens,
self-attention with their square. The two constants follow from the network's shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.long_video import chunks_of
from pipeline.progress import Stage
from pipeline.spec import VideoSpec, latent_frames

_PIXELS_PER_TOKEN = 16


@dataclass(frozen=True, slots=True)
class StepCost:
    """Operations of one network evaluation: `linear` a latent frame, `quadratic` a frame pair."""

    linear: float
    quadratic: float

    @classmethod
    def from_shape(
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


def frame_tokens(width: int, height: int) -> int:
    """The tokens of one latent frame, by the frame's size in pixels."""
    return (width // _PIXELS_PER_TOKEN) * (height // _PIXELS_PER_TOKEN)


def published_step_cost(width: int, height: int) -> StepCost:
    """The cost for the published network at a frame size in pixels."""
    tokens = frame_tokens(width, height)
    return StepCost.from_shape(
        width=2048, mlp_ratio=4.0, layers=28, text_tokens=512, frame_tokens=tokens
    )


def work_of(spec: VideoSpec, max_frames: int, step_cost: StepCost) -> Mapping[Stage, float]:
    """How much work each stage of a video is, each in a unit of its own.

    `max_frames` is the longest video of the checkpoint: see `chunks_of`.
    """
    chunks = chunks_of(spec, max_frames)
    evaluations = spec.num_inference_steps * spec.num_branches
    return {
        Stage.TEXT: spec.num_branches,
        Stage.IMAGE: len(chunks),
        Stage.DENOISE: sum(
            evaluations * step_cost.operations(chunk.spec.num_latent_frames) for chunk in chunks
        ),
        Stage.DECODE: sum(latent_frames(chunk.repeated + chunk.shown) for chunk in chunks),
        Stage.ENCODE: spec.num_frames,
    }
