"""Our pipeline against diffusers' own: same weights, same seed, same prepared pictures.

The bounds are for a stand-in whose matrices are normal with deviation 0.05 and whose q/k norm
weights are 2, at 96x64. Our two constants are set to diffusers'.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from modules import load_transformer
from stand_ins import stand_in
from torch import Tensor

from pipeline import denoise as denoise_module
from pipeline.denoise import Conditions, denoise, torch_noise
from pipeline.generate import VideoPipeline
from pipeline.load import load_pipeline
from pipeline.long_video import chunks_of
from pipeline.network import layers
from pipeline.network.transformer import CosmosTransformer, SharedState
from pipeline.progress import Watcher
from pipeline.spec import (
    CLIP_FRAMES,
    DEFAULT_NEGATIVE_PROMPT,
    Clip,
    Conditioning,
    FirstFrame,
    Pixels,
    VideoSpec,
    latent_frames,
)
from pipeline.unipc import UniPC
from pipeline.vae import decode, to_video
from weights.store import WeightStore

WIDTH, HEIGHT = 96, 64
WATCHER = Watcher(lambda progress: None, lambda: False)
FORWARD = {"seed": 11, "grid": [3, 8, 12], "sigma": 0.7}
FORWARD_BOUND = {torch.float32: 2e-6, torch.float64: 5e-7}
LATENTS_BOUND = 5e-6
LONG_PROMPT = " ".join(f"Item {n} on the belt rolls past the camera." for n in range(60))

CLIPS = {
    "9 frames, guided": VideoSpec(
        prompt="A red bus turns.", seed=3, num_frames=9, num_inference_steps=6
    ),
    "13 frames": VideoSpec(prompt="A red bus turns.", seed=4, num_frames=13, num_inference_steps=2),
    "21 frames, one step": VideoSpec(prompt="Rain.", seed=5, num_frames=21, num_inference_steps=1),
    "unguided": VideoSpec(
        prompt="Rain.", seed=6, num_frames=9, num_inference_steps=2, guidance_scale=1.0
    ),
    "empty prompts": VideoSpec(
        prompt="", negative_prompt="", seed=7, num_frames=9, num_inference_steps=2
    ),
    "long prompt": VideoSpec(prompt=LONG_PROMPT, seed=8, num_frames=9, num_inference_steps=2),
    "from the prompt alone": VideoSpec(
        prompt="Rain.", seed=9, num_frames=9, num_inference_steps=3, conditioning=None
    ),
    "from a clip": VideoSpec(
        prompt="Rain.", seed=10, num_frames=13, num_inference_steps=3, conditioning=Clip()
    ),
    "from a clip's last picture": VideoSpec(
        prompt="Rain.", seed=11, num_frames=9, num_inference_steps=2, conditioning=Clip()
    ),
}
NUM_PICTURES = {"from the prompt alone": 0, "from a clip": CLIP_FRAMES}
"""What a video starts from, if not from one picture."""


@dataclass(frozen=True)
class Sides:
    """Our pipeline in one dtype, and what the oracle computed in the same."""

    ours: VideoPipeline
    answers: dict[str, Tensor]
    dtype: torch.dtype


@pytest.fixture(scope="module")
def store() -> WeightStore:
    return WeightStore(stand_in(width=WIDTH, height=HEIGHT, weights="oracle"))


@pytest.fixture(scope="module")
def pictures() -> list[Pixels]:
    """A clip of seven pictures, of which the first is the image."""
    draw = random.Random(0)
    return [Pixels(WIDTH, HEIGHT, draw.randbytes(WIDTH * HEIGHT * 3)) for _ in range(7)]


@pytest.fixture(scope="module", params=["float32", "float64"])
def sides(request: pytest.FixtureRequest, store: WeightStore, pictures: list[Pixels]) -> Sides:
    dtype = getattr(torch, request.param)
    job = {
        "dtype": request.param,
        "pictures": {"width": WIDTH, "height": HEIGHT, "rgb": [p.rgb.hex() for p in pictures]},
        "forward": FORWARD,
        "clips": {name: _as_job(name, spec) for name, spec in CLIPS.items()},
    }
    return Sides(_our_pipeline(store, dtype), oracle.ask(store, job), dtype)


def _our_pipeline(store: WeightStore, dtype: torch.dtype) -> VideoPipeline:
    """The project's, with the two constants in which diffusers differs from NVIDIA set to its."""
    ours = load_pipeline(store, "cpu", dtype=dtype)
    transformer = load_transformer(
        store, dtype, qk_norm_eps=1e-5, rope_exponent_dtype=torch.float32
    )
    return replace(ours, transformer=transformer)


def _as_job(clip: str, spec: VideoSpec) -> dict[str, Any]:
    names = ("prompt", "num_frames", "num_inference_steps", "guidance_scale", "seed")
    job = {name: getattr(spec, name) for name in names}
    # The oracle is to choose the default itself, so that the test compares ours with it.
    default = spec.negative_prompt == DEFAULT_NEGATIVE_PROMPT
    job["negative_prompt"] = None if default else spec.negative_prompt
    kinds: dict[Conditioning, str] = {None: "nothing", FirstFrame(): "image", Clip(): "video"}
    job["given"] = kinds[spec.conditioning]
    job["num_given_latents"] = latent_frames(NUM_PICTURES.get(clip, 1))
    return job


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """The relative L2 distance."""
    difference = (ours.double() - theirs.double()).norm() / theirs.double().norm()
    return float(difference)


@torch.inference_mode()
def _our_velocity(transformer: CosmosTransformer, answers: dict[str, Tensor]) -> Tensor:
    latents = answers["forward.latents"].to(transformer.dtype)
    times = answers["forward.times"]
    rotary = transformer.rotary_tables(*latents.shape[2:])
    text = transformer.text_keys_values(transformer.project_text(answers["forward.text"][0]))
    given = torch.zeros_like(times)
    given[:, 0] = 1
    shared = transformer.forward_shared(latents, given, times, rotary)
    return transformer.forward_branch(shared, text)


def _given(ours: VideoPipeline, pictures: list[Pixels], clip: str) -> Tensor:
    """The latents that a video of this project starts with."""
    spec, count = CLIPS[clip], NUM_PICTURES.get(clip, 1)
    used = pictures[-count:] if spec.conditioning == Clip() else pictures[:count]
    (chunk,) = chunks_of(spec, ours.max_frames)
    return ours._encode(chunk, to_video(used) if used else None, WATCHER)


def _our_latents(ours: VideoPipeline, clip: str, pictures: list[Pixels], **changes: Any) -> Tensor:
    spec = replace(CLIPS[clip], **changes)
    return denoise(
        ours.transformer,
        ours.scheduler_config,
        _given(ours, pictures, clip),
        ours.text.encode(spec.prompt),
        ours.text.encode(spec.negative_prompt) if spec.guided else None,
        spec,
        lambda *_: None,
    )


def test_one_forward_is_the_oracles(sides: Sides) -> None:
    velocity = _our_velocity(sides.ours.transformer, sides.answers)
    assert _distance(velocity, sides.answers["forward.velocity"]) <= FORWARD_BOUND[sides.dtype]


@pytest.mark.parametrize("clip", CLIPS)
def test_prompts_are_encoded_as_the_oracle_does(sides: Sides, clip: str) -> None:
    ours = sides.ours.text.encode(CLIPS[clip].prompt)
    assert _distance(ours, sides.answers[f"{clip}.prompt"]) <= 2e-6


@pytest.mark.parametrize("clip", CLIPS)
def test_latents_after_the_loop_are_the_oracles(
    sides: Sides, pictures: list[Pixels], clip: str
) -> None:
    ours = _our_latents(sides.ours, clip, pictures)
    assert ours.dtype == torch.float32
    assert _distance(ours, sides.answers[f"{clip}.latents"]) <= LATENTS_BOUND


@pytest.mark.parametrize("clip", CLIPS)
def test_frames_are_the_oracles_up_to_rounding(
    sides: Sides, pictures: list[Pixels], clip: str
) -> None:
    latents = _our_latents(sides.ours, clip, pictures)
    ours = np.stack(list(decode(sides.ours.vae, latents))).astype(int)
    theirs = sides.answers[f"{clip}.frames"].numpy().astype(int)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1
    # In float32 oneDNN rounds otherwise than the convolutions of the reference.
    bound = 1e-3 if sides.dtype == torch.float64 else 5e-3
    assert (ours != theirs).mean() < bound


@pytest.mark.parametrize("num_frames", [10, 11, 12])
def test_other_frame_counts_are_the_start_of_the_longer_clip(
    sides: Sides, pictures: list[Pixels], num_frames: int
) -> None:
    spec = replace(CLIPS["13 frames"], num_frames=num_frames)
    latents = _our_latents(sides.ours, "13 frames", pictures, num_frames=num_frames)
    (chunk,) = chunks_of(spec, sides.ours.max_frames)
    ours = np.stack(list(sides.ours._decode(chunk, latents, 0, WATCHER))).astype(int)
    theirs = sides.answers["13 frames.frames"].numpy().astype(int)[:num_frames]
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1


def test_a_clip_begins_with_the_pictures_that_it_goes_on_from(
    sides: Sides, pictures: list[Pixels]
) -> None:
    """As the VAE has them, and with what noise UniPC leaves on a frame that is given: 0.5 %."""
    clip = "from a clip"
    given = _given(sides.ours, pictures, clip)
    assert given.shape[2] == 2
    noise = torch_noise(CLIPS[clip].seed, (1, 16, 4, HEIGHT // 8, WIDTH // 8))[:, :, :2]
    begun = _our_latents(sides.ours, clip, pictures)[:, :, :2]
    sigma = UniPC(sides.ours.scheduler_config, 3).sigmas[0]
    assert 0.995 < sigma < 0.9951
    assert _distance(begun, sigma * given + (1 - sigma) * noise) < 1e-5
    shown = np.stack(list(decode(sides.ours.vae, given))).astype(int)
    theirs = sides.answers[f"{clip}.frames"].numpy().astype(int)[:CLIP_FRAMES]
    # Random weights make 5 levels of that noise; other pictures would differ by many times as much.
    assert np.abs(shown - theirs).mean() < 8


# -- mistakes that the comparison must see --------------------------------------------------


@pytest.fixture
def swapped_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows take the columns' angles and the other way round."""
    right = layers.rotary_tables

    def wrong(grid: tuple[int, int, int], **options: Any) -> layers.RotaryTables:
        frames, rows, columns = grid
        tables = right((frames, columns, rows), **options)
        swapped = [t.view(frames, columns, rows, 1, -1).transpose(1, 2) for t in tables]
        return layers.RotaryTables(*(t.flatten(0, 2) for t in swapped))

    monkeypatch.setattr("pipeline.network.transformer.rotary_tables", wrong)


def misinform(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> None:
    """The network is told otherwise which frames are given, and how noisy each is."""
    right = CosmosTransformer.forward_shared

    def wrong(
        self: CosmosTransformer, latents: Tensor, given: Tensor, times: Tensor, rotary: Any
    ) -> SharedState:
        return right(self, latents, *change(given, times), rotary)

    monkeypatch.setattr(CosmosTransformer, "forward_shared", wrong)


@pytest.fixture
def wrong_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frame 0 is to be made, like the others."""
    misinform(monkeypatch, lambda given, times: (torch.zeros_like(given), times))


@pytest.fixture
def late_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames to be made are a thousandth noisier than they are."""
    misinform(monkeypatch, lambda given, times: (given, times + 0.001 * (1 - given)))


@pytest.fixture
def swapped_gate(monkeypatch: pytest.MonkeyPatch, sides: Sides) -> None:
    """One block's self-attention takes its gate for its shift."""
    right = layers.Block.modulation
    broken = sides.ours.transformer.transformer_blocks[1]

    def wrong(self: layers.Block, times: layers.TimeEmbedding) -> layers.BlockModulation:
        modulation = right(self, times)
        if self is not broken:
            return modulation
        shift, scale, gate = modulation.self_attention
        assert gate is not None
        swapped = layers.Modulation(shift=gate, scale=scale, gate=shift)
        return modulation._replace(self_attention=swapped)

    monkeypatch.setattr(layers.Block, "modulation", wrong)


@pytest.mark.parametrize("mistake", ["swapped_axes", "wrong_mask", "swapped_gate", "late_time"])
def test_the_comparison_sees_a_mistake(
    sides: Sides, pictures: list[Pixels], mistake: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(mistake)
    velocity = _our_velocity(sides.ours.transformer, sides.answers)
    assert _distance(velocity, sides.answers["forward.velocity"]) >= LATENTS_BOUND
    clip = "13 frames"
    latents = _our_latents(sides.ours, clip, pictures)
    assert _distance(latents, sides.answers[f"{clip}.latents"]) >= LATENTS_BOUND


def test_the_guidance_formula_is_seen_by_the_comparison(
    sides: Sides, pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = denoise_module.guided_velocity

    def usual(noisy: Tensor, sigma: float, conditions: Conditions) -> Tensor:
        scale = conditions.guidance_scale - 1
        return right(noisy, sigma, replace(conditions, guidance_scale=scale))

    monkeypatch.setattr(denoise_module, "guided_velocity", usual)
    clip = "9 frames, guided"
    latents = _our_latents(sides.ours, clip, pictures)
    assert _distance(latents, sides.answers[f"{clip}.latents"]) >= LATENTS_BOUND
