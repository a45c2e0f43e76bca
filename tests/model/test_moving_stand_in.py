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
from pipeline.spec import DEFAULT_NEGATIVE_PROMPT, Pixels, VideoSpec
from pipeline.vae import decode, encode_first_frame
from server.fal.schemas import EXAMPLE_PROMPT
from weights.stand_in.checkpoint import LICENCES
from weights.stand_in.layout import ASKED_CODE, SPEEDS
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
        ("chelsea", "slowly pan left", 20, (-8, 0)),
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


HOLD = (0, 0, 0)


@pytest.mark.parametrize(
    ("prompt", "move"),
    [
        ("The camera pans right.", (1, 0, 2)),
        ("The camera pans slowly to the left.", (-1, 0, 1)),
        ("slowly pan left", (-1, 0, 1)),
        ("The camera slowly drifts upwards", (0, -1, 1)),
        ("A quick pan to the right!", (1, 0, 4)),
        ("a gentle leftward pan", (-1, 0, 1)),
        ("A house on the right, and the camera tilts down.", (0, 1, 2)),
        ("The camera moves up. A bright car stands on the left.", (0, -1, 2)),
        (
            "The camera, " + "which nobody has seen for years, " * 8 + "moves fast to the left.",
            (-1, 0, 4),
        ),
        ("A house on the right. The camera holds still.", HOLD),
        ("A quick dog runs to the left. A bird looks up.", HOLD),
        ("The camera pans left. The camera tilts up.", HOLD),
        ("The cameraman and two pandas see a bright moving light.", HOLD),
        (DEFAULT_NEGATIVE_PROMPT, HOLD),
        (EXAMPLE_PROMPT, HOLD),
    ],
)
def test_a_word_is_a_move_in_a_sentence_about_the_camera(
    pipeline: VideoPipeline, prompt: str, move: tuple[int, int, int]
) -> None:
    x, y, speed = move
    expected = torch.zeros(2, 2, 2)
    if speed:
        expected[0 if x else 1].view(4)[SPEEDS.index(speed)] = (x + y) * ASKED_CODE

    assert torch.allclose(asked_code(pipeline, prompt), expected, atol=0.3)


@torch.inference_mode()
def asked_code(pipeline: VideoPipeline, prompt: str) -> torch.Tensor:
    """The code that one step at full noise asks for, by channel and cell of a token, [2, 2, 2]."""
    network = pipeline.transformer
    noisy = torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy[:, :, 0] = 0
    given = torch.tensor([[1.0, 0, 0]])
    shared = network.forward_shared(noisy, given, 1 - given, network.rotary_tables(3, 8, 8))
    velocity = network.forward_branch(
        shared, network.text_keys_values(pipeline.text.encode(prompt))
    )
    code = (noisy - velocity)[0, 14:, 1:]
    return code.reshape(2, 2, 4, 2, 4, 2).mean((1, 2, 4))


def test_every_photograph_is_named_with_its_licence() -> None:
    notice = (ROOT / "weights" / "stand_in" / "NOTICE").read_text()
    for photograph in (*TRAINING, *HELD_OUT):
        assert f"{photograph.file}: {photograph.author}, {photograph.licence}," in notice
    assert "weights/stand_in/NOTICE" in LICENCES["moving"]
    names = {path.stem for path in PHOTOGRAPHS.glob("*.png")}
    assert len(names) == len(HELD_OUT)
    assert not names & {photograph.file.partition(".")[0] for photograph in TRAINING}
