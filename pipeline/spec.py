"""What a caller asks for: the one value that crosses from the server into the pipeline.

No torch here: the API process imports this module for its limits and defaults.
"""

import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from pipeline.errors import InvalidSpec

FPS = 16
"""Frames per second of every video."""

MIN_FRAMES = 9
MAX_FRAMES = 93
MIN_STEPS = 1
MAX_STEPS = 50
MIN_GUIDANCE = 1.0
MAX_GUIDANCE = 20.0
MAX_SEED = 2**63 - 1
"""The largest integer that a table keeps."""
RANDOM_SEED = -1
"""Stands for a seed that is to be drawn, as in other programs."""
DRAWN_SEEDS = 2**53
"""Seeds that are drawn are below this: JavaScript keeps no larger integer exactly."""

OVERLAPS = (1, 5)
"""How many frames of a chunk the next one can begin with: one latent frame, or two."""
MAX_CHUNKS = 4
"""The chunks of a long video."""

FRAMES_PER_LATENT = 4
"""The VAE is causal: one frame for the first latent frame, four for each later one."""

# The string that fal's page, NVIDIA's configuration and diffusers all give as the default.
DEFAULT_NEGATIVE_PROMPT = (
    "The video captures a series of frames showing ugly scenes, static with no motion, motion "
    "blur, over-saturation, shaky footage, low resolution, grainy texture, pixelated images, "
    "poorly lit areas, underexposed and overexposed scenes, poor color balance, washed out "
    "colors, choppy sequences, jerky movements, low frame rate, artifacting, color banding, "
    "unnatural transitions, outdated special effects, fake elements, unconvincing visuals, "
    "poorly edited content, jump cuts, visual noise, and flickering. Overall, the video is of "
    "poor quality."
)


class Container(StrEnum):
    """The output formats, by the names that fal gives them."""

    X264 = "X264 (.mp4)"
    VP9 = "VP9 (.webm)"
    PRORES4444 = "PRORES4444 (.mov)"
    GIF = "GIF (.gif)"

    @property
    def suffix(self) -> str:
        """The file name's ending, with its dot."""
        return self.value[self.value.index("(") + 1 : -1]


class Quality(StrEnum):
    """How much of the picture the encoder keeps."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    MAXIMUM = "maximum"


class Tier(StrEnum):
    """How faithfully the network is evaluated; everything but `exact` is an approximation.

    `exact` is NVIDIA's network and sampler but for two things: `num_inference_steps` evaluations,
    of which NVIDIA makes one more, and a time that is not rounded down to thousandths.
    """

    EXACT = "exact"


CLIP_FRAMES = 5
"""A video goes on from the last five pictures of a clip: the first two latent frames."""


class Sampler(StrEnum):
    """How noise becomes a video; a checkpoint is trained for one of them."""

    UNIPC = "unipc"
    """NVIDIA's sampler of order 2, with guidance."""
    TRIGFLOW = "trigflow"
    """NVIDIA's sampler of distilled checkpoints: few steps, one evaluation each, no guidance."""

    @property
    def max_steps(self) -> int:
        return 20 if self is Sampler.TRIGFLOW else MAX_STEPS

    @property
    def default_steps(self) -> int:
        return 10 if self is Sampler.TRIGFLOW else 35

    @property
    def default_guidance(self) -> float:
        return 7.0 if self.has_guidance else 1.0

    @property
    def has_guidance(self) -> bool:
        return self is not Sampler.TRIGFLOW


@dataclass(frozen=True, slots=True)
class FirstFrame:
    """The video starts from one prepared picture, the job's media named `image`."""

    kind: Literal["first_frame"] = "first_frame"


@dataclass(frozen=True, slots=True)
class Clip:
    """The video goes on from a clip, whose last pictures are the job's media named `video`.

    There are `CLIP_FRAMES`, in the order in which they are shown, or the last one alone. The
    video begins with them, as the VAE decodes them again.
    """

    kind: Literal["clip"] = "clip"


Conditioning = FirstFrame | Clip | None
"""What the video starts from; None is the prompt alone."""

_CONDITIONINGS: dict[str, Conditioning] = {"first_frame": FirstFrame(), "clip": Clip()}


def num_pictures(conditioning: Conditioning) -> tuple[int, ...]:
    """How many prepared pictures a video may start from."""
    match conditioning:
        case None:
            return (0,)
        case FirstFrame():
            return (1,)
        case Clip():
            return (1, CLIP_FRAMES)


def seed_of(given: int | None) -> int:
    """The seed that was given; one that is drawn for None and `RANDOM_SEED`."""
    return secrets.randbelow(DRAWN_SEEDS) if given in (None, RANDOM_SEED) else given


def chunk_frames(at_once: int) -> int:
    """The length of each chunk of a long video, of a checkpoint that makes `at_once` frames.

    All frames of a chunk's last latent frame are shown, because the next one goes on from them.
    """
    return at_once - (at_once - 1) % FRAMES_PER_LATENT


def max_frames(overlap: int | None, at_once: int = MAX_FRAMES, chunks: int = MAX_CHUNKS) -> int:
    """The longest video that is made of so many chunks which overlap so; of one chunk without.

    Args:
        at_once: the longest video of the checkpoint in one chunk.
    """
    if overlap is None:
        return at_once
    length = chunk_frames(at_once)
    return length + (chunks - 1) * (length - overlap)


def latent_frames(num_frames: int) -> int:
    """The latent frames whose decoding gives at least `num_frames` frames."""
    return -(-(num_frames - 1) // FRAMES_PER_LATENT) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSpec:
    """One video to make. Every value is checked when the spec is made.

    `num_inference_steps` counts model evaluations per guidance branch; 36 is the schedule that
    NVIDIA's program makes of 35. `guidance_scale` is g in
    `cond + g * (cond - uncond)`; 1 switches guidance off. The seed is always given: one that
    is drawn is drawn before the spec exists. With an `overlap` a video can be longer than
    `MAX_FRAMES`: it is made of chunks, each of which begins with the last `overlap` frames of the
    one before, see `pipeline.long_video`. `sampler` also says which of the loaded checkpoints
    makes the video: the one that is trained for it.

    Raises:
        InvalidSpec: a value is out of range; the message names it, the value and the range.
    """

    prompt: str
    seed: int
    negative_prompt: str = DEFAULT_NEGATIVE_PROMPT
    num_frames: int = MAX_FRAMES
    num_inference_steps: int = 35
    guidance_scale: float = 7.0
    container: Container = Container.X264
    quality: Quality = Quality.HIGH
    conditioning: Conditioning = FirstFrame()
    sampler: Sampler = Sampler.UNIPC
    overlap: int | None = None
    tier: Tier = Tier.EXACT

    def __post_init__(self) -> None:
        if self.overlap not in (None, *OVERLAPS):
            allowed = " or ".join(map(str, OVERLAPS))
            raise InvalidSpec("overlap", f"overlap is {self.overlap}; it must be {allowed}.")
        _check_range("num_frames", self.num_frames, MIN_FRAMES, max_frames(self.overlap))
        max_steps = self.sampler.max_steps
        _check_range("num_inference_steps", self.num_inference_steps, MIN_STEPS, max_steps)
        _check_range("guidance_scale", self.guidance_scale, MIN_GUIDANCE, MAX_GUIDANCE)
        if self.guided and not self.sampler.has_guidance:
            raise InvalidSpec(
                "guidance_scale",
                f"guidance_scale is {self.guidance_scale}; a distilled model has no guidance, "
                "which is 1.",
            )
        _check_range("seed", self.seed, 0, MAX_SEED)

    @property
    def num_latent_frames(self) -> int:
        return latent_frames(self.num_frames)

    @property
    def guided(self) -> bool:
        """Whether the unconditional branch is evaluated at all."""
        return self.guidance_scale != 1.0

    @property
    def num_branches(self) -> int:
        """Network evaluations a step: conditional, and unconditional if it is guided."""
        return 2 if self.guided else 1

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON values; `from_json` reads it back."""
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "negative_prompt": self.negative_prompt,
            "num_frames": self.num_frames,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "container": self.container.value,
            "quality": self.quality.value,
            "conditioning": self.conditioning.kind if self.conditioning else None,
            "sampler": self.sampler.value,
            "overlap": self.overlap,
            "tier": self.tier.value,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "VideoSpec":
        kind = values["conditioning"]
        return cls(
            **{
                **values,
                "container": Container(values["container"]),
                "quality": Quality(values["quality"]),
                "conditioning": None if kind is None else _CONDITIONINGS[kind],
                # Jobs that were submitted to an earlier release do not have these.
                "sampler": Sampler(values.get("sampler", Sampler.UNIPC)),
                "overlap": values.get("overlap"),
                "tier": Tier(values["tier"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Pixels:
    """A prepared picture: `height * width * 3` bytes of sRGB, row by row, 8 bits a channel."""

    width: int
    height: int
    rgb: bytes

    def __post_init__(self) -> None:
        expected = self.width * self.height * 3
        if len(self.rgb) != expected:
            raise ValueError(
                f"A {self.width}x{self.height} RGB picture has {expected:,} bytes, "
                f"but {len(self.rgb):,} were given."
            )


def pictures_in(data: bytes, width: int, height: int) -> tuple[Pixels, ...]:
    """The pictures of a prepared medium, which holds them one after the other.

    Raises:
        ValueError: it does not hold whole pictures of that size.
    """
    size = width * height * 3
    if len(data) % size:
        raise ValueError(f"{len(data):,} bytes are no {width}x{height} RGB pictures.")
    starts = range(0, len(data), size)
    return tuple(Pixels(width, height, data[start : start + size]) for start in starts)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidSpec(name, f"{name} is {value}; it must be from {low} to {high}.")
