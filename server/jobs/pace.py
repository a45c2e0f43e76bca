"""How long videos take here: the seconds that were measured, scaled by counted work."""

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from pipeline.spec import VideoSpec
from pipeline.work import published_step_cost, work_of

_KEPT = 64
"""Measured videos of one endpoint that are kept."""
_NEWEST = 9
"""Their median is the estimate: a video that was slow for once does not count."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a request decides how long it takes."""

    endpoint: str
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    overlap: int | None
    container: str
    quality: str

    @classmethod
    def of(cls, endpoint: str, spec: VideoSpec) -> "Shape":
        """The shape of a request to an endpoint."""
        return cls(
            endpoint,
            spec.num_frames,
            spec.num_inference_steps,
            spec.guidance_scale,
            spec.overlap,
            spec.container.value,
            spec.quality.value,
        )

    def likeness(self, other: "Shape") -> int:
        """How much is the same of length, codec and quality, which counted work scales worst."""
        return sum(
            getattr(self, name) == getattr(other, name)
            for name in ("num_frames", "container", "quality")
        )


@dataclass(frozen=True, slots=True)
class _Measured:
    shape: Shape
    seconds: Mapping[str, float]


class Pace:
    """The measured videos of one server, `width` times `height` pixels, at most `max_frames` long.

    Work is counted as that of the published network: a stand-in's grows otherwise with the length.
    """

    def __init__(self, width: int, height: int, max_frames: int) -> None:
        self._step_cost = published_step_cost(width, height)
        self._max_frames = max_frames
        self._measured: dict[str, deque[_Measured]] = {}

    def learn(self, shape: Shape, stage_seconds: Mapping[str, float]) -> None:
        """Take note of a video that is finished."""
        of_endpoint = self._measured.setdefault(shape.endpoint, deque(maxlen=_KEPT))
        of_endpoint.append(_Measured(shape, stage_seconds))

    def stage_seconds(self, shape: Shape) -> dict[str, float] | None:
        """The seconds of each stage of such a video; None if none of its endpoint was measured.

        The videos count that are most like it.
        """
        # A copy, because another thread may be learning.
        measured = tuple(self._measured.get(shape.endpoint, ()))
        if not measured:
            return None
        best = max(each.shape.likeness(shape) for each in measured)
        alike = [each for each in measured if each.shape.likeness(shape) == best]
        rates: dict[str, list[float]] = defaultdict(list)
        for each in alike[-_NEWEST:]:
            done = self._work_of(each.shape)
            for stage, seconds in each.seconds.items():
                if stage in done:
                    rates[stage].append(seconds / done[stage])
        work = self._work_of(shape)
        return {stage: median(found) * work[stage] for stage, found in rates.items()}

    def seconds(self, shape: Shape) -> float | None:
        """The seconds of all stages together."""
        stages = self.stage_seconds(shape)
        return None if stages is None else sum(stages.values())

    def _work_of(self, shape: Shape) -> dict[str, float]:
        spec = VideoSpec(
            prompt="",
            seed=0,
            num_frames=shape.num_frames,
            num_inference_steps=shape.num_inference_steps,
            guidance_scale=shape.guidance_scale,
            overlap=shape.overlap,
        )
        work = work_of(spec, self._max_frames, self._step_cost)
        return {stage.value: amount for stage, amount in work.items()}
