"""The stand-in moves the picture as the prompt says, in the pipeline as it is."""

from typing import Any

import numpy as np
import pytest
import torch
from paths import ROOT
from stand_ins import stand_in

from pipeline.denoise import denoise
from pipeline.generate import VideoPipeline
from pipeline.image import prepare
from pipeline.load import load_pipeline
from pipeline.spec import Pixels, VideoSpec
from pipeline.vae import decode, encode_first_frame
from weights.stand_in.checkpoint import LICENCES
from weights.stand_in.photographs import HELD_OUT, TRAINING
from weights.store import WeightStore

WIDTH, HEIGHT = 160, 96
PHOTOGRAPHS = ROOT / "benchmarks" / "photographs"
NUM_FRAMES = 9

Grey = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module")
def pipeline() -> VideoPipeline:
    checkpoint = stand_in(width=WIDTH, height=HEIGHT, weights="moving")
    return load_pipeline(WeightStore(checkpoint), "cpu")


@torch.inference_mode()
def frames(pipeline: VideoPipeline, pixels: Pixels, spec: VideoSpec) -> list[Grey]:
    """The decoded frames in grey, [HEIGHT, WIDTH]."""
    latents = denoise(
        pipeline.transformer,
        pipeline.scheduler_config,
        encode_first_frame(pipeline.vae, pixels),
        pipeline.text.encode(spec.prompt),
        pipeline.text.encode(spec.negative_prompt) if spec.guidance_scale != 1 else None,
        spec,
        lambda _: None,
    )
    return [np.asarray(frame, np.float32).mean(2) for frame in decode(pipeline.vae, latents)]


def shift(first: Grey, last: Grey) -> tuple[int, int]:
    """By how many pixels a picture moved, in x and y, of multiples of 4 up to 36: the best match.

    Only the inner part of the last frame is looked for: at its border there is something new.
    """
    margin = 36
    inner = last[margin:-margin, margin:-margin]
    height, width = inner.shape
    errors = {
        (x, y): np.abs(
            inner - first[margin - y : margin - y + height, margin - x : margin - x + width]
        ).mean()
        for x in range(-margin, margin + 1, 4)
        for y in range(-margin, margin + 1, 4)
    }
    return min(errors, key=lambda step: float(errors[step]))


@pytest.mark.parametrize(
    ("name", "prompt", "guidance", "moved"),
    [
        ("china", "The camera pans right.", 7, (16, 0)),
        ("rocket", "A rocket at night. The camera tilts up.", 1, (0, -16)),
        ("chelsea", "pan slowly to the left", 20, (-8, 0)),
        ("seeding", "The camera moves quickly down over a meadow.", 7, (0, 32)),
        ("friends", "A house on the left. A dog looks up.", 7, (0, 0)),
    ],
)
def test_it_moves_as_the_prompt_says(
    pipeline: VideoPipeline, name: str, prompt: str, guidance: float, moved: tuple[int, int]
) -> None:
    spec = VideoSpec(
        prompt=prompt,
        seed=1,
        num_frames=NUM_FRAMES,
        num_inference_steps=12,
        guidance_scale=guidance,
    )
    pixels = prepare((PHOTOGRAPHS / f"{name}.png").read_bytes(), WIDTH, HEIGHT)
    made = frames(pipeline, pixels, spec)

    assert len(made) == NUM_FRAMES
    assert shift(made[0], made[-1]) == moved
    given = np.frombuffer(pixels.rgb, np.uint8).reshape(HEIGHT, WIDTH, 3).mean(2)
    error = np.square(made[0] - given).mean()
    assert 10 * np.log10(255**2 / error) > 20, "the first frame is the picture"
    if moved == (0, 0):
        assert abs(made[-1].mean() - made[0].mean()) < 1, "what holds keeps its light"


def test_every_photograph_is_named_with_its_licence() -> None:
    notice = (ROOT / "weights" / "stand_in" / "NOTICE").read_text()
    for photograph in (*TRAINING, *HELD_OUT):
        assert f"{photograph.file}: {photograph.author}, {photograph.licence}," in notice
    assert "weights/stand_in/NOTICE" in LICENCES["moving"]
    names = {path.stem for path in PHOTOGRAPHS.glob("*.png")}
    assert len(names) == len(HELD_OUT)
    assert not names & {photograph.file.partition(".")[0] for photograph in TRAINING}
