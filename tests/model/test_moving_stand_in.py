"""The stand-in moves the picture as the prompt says, in the pipeline as it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from paths import ROOT
from stand_ins import stand_in

from pipeline.generate import VideoPipeline
from pipeline.image import prepare
from pipeline.load import load_pipeline
from pipeline.progress import Watcher
from pipeline.spec import DEFAULT_NEGATIVE_PROMPT, Clip, FirstFrame, Pixels, Sampler, VideoSpec
from server.fal.schemas import EXAMPLE_PROMPT
from weights.stand_in import text
from weights.stand_in.checkpoint import LICENCES
from weights.stand_in.layout import (
    ASKED_CODE,
    DIRECTIONS,
    HOLD_CODE,
    SPEEDS,
    code_place,
)
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


def frames(pipeline: VideoPipeline, pictures: Sequence[Pixels], spec: VideoSpec) -> list[Grey]:
    """The decoded frames in grey, [HEIGHT, WIDTH]."""
    watcher = Watcher(lambda _progress: None, lambda: False)
    made = pipeline._frames(spec, pictures, watcher)
    return [np.asarray(frame, np.float32).mean(2) for frame in made]


HOLD = (0, 0, 0)
MOVES = [(x, y, speed) for x, y in DIRECTIONS.values() for speed in SPEEDS]


def move_at(made: list[Grey], index: int) -> tuple[int, int, int]:
    """Which way, and by how many pixels a frame, frame `index` has come: the best of all moves.

    Only the inner part of the frame is looked for in the first one: at its border is something new.
    """
    margin = 4 * index + 4
    inner = made[index][margin:-margin, margin:-margin]
    height, width = inner.shape

    def error(move: tuple[int, int, int]) -> float:
        left, top = (margin - step * move[2] * index for step in move[:2])
        return float(np.abs(inner - made[0][top : top + height, left : left + width]).mean())

    return min([HOLD, *MOVES], key=error)


def spec(
    prompt: str, *, guidance: float = 7, seed: int = 1, steps: int = 8, **values: Any
) -> VideoSpec:
    return VideoSpec(
        prompt=prompt,
        seed=seed,
        num_frames=NUM_FRAMES,
        num_inference_steps=steps,
        guidance_scale=guidance,
        **values,
    )


def photograph(name: str) -> Pixels:
    return prepare((PHOTOGRAPHS / f"{name}.png").read_bytes(), WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("name", "prompt", "guidance", "move"),
    [
        ("china", "The camera pans right.", 7, (1, 0, 2)),
        ("chelsea", "slowly pan left", 20, (-1, 0, 1)),
        ("seeding", "The camera moves quickly down over a meadow.", 1, (0, 1, 4)),
    ],
)
def test_each_frame_moves_on_as_the_prompt_says(
    pipeline: VideoPipeline, name: str, prompt: str, guidance: float, move: tuple[int, int, int]
) -> None:
    pixels = photograph(name)
    made = frames(pipeline, [pixels], spec(prompt, guidance=guidance))

    assert len(made) == NUM_FRAMES
    assert [move_at(made, index) for index in range(1, NUM_FRAMES)] == [move] * (NUM_FRAMES - 1)
    given = np.frombuffer(pixels.rgb, np.uint8).reshape(HEIGHT, WIDTH, 3).mean(2)
    error = np.square(made[0] - given).mean()
    assert 10 * np.log10(255**2 / error) > 20, "the first frame is the picture"


def test_a_photograph_of_strong_contrast_opens_no_gate_that_is_shut(
    pipeline: VideoPipeline,
) -> None:
    """Where one opens, a stripe of other colours lies over the frames."""
    quickly = spec("The camera moves quickly down.", guidance=1, steps=4)
    made = frames(pipeline, [photograph("china")], quickly)

    for index, later in enumerate(made[1:], start=1):
        come, margin = 4 * index, 4 * index + 4
        expected = made[0][margin - come : HEIGHT - margin - come, margin:-margin]
        error = np.abs(later[margin:-margin, margin:-margin] - expected)
        assert error.mean() < 6
        assert error.max() < 50


def test_a_camera_that_holds_still_shows_one_picture(pipeline: VideoPipeline) -> None:
    made = frames(
        pipeline, [photograph("friends")], spec("A dog looks up. The camera holds still.")
    )

    for later in made[1:]:
        assert np.abs(later - made[0]).mean() < 1
        assert abs(later.mean() - made[0].mean()) < 0.2
    # Between two latent frames nothing is made up.
    assert all(np.array_equal(frame, made[4]) for frame in made[1:4])


def test_without_a_word_the_seed_decides_on_a_slow_drift(pipeline: VideoPipeline) -> None:
    drifts = []
    for seed in (1, 2):
        made = frames(pipeline, [photograph("rocket")], spec("A house on the left.", seed=seed))
        drifts.append(move_at(made, NUM_FRAMES - 1))
        assert move_at(made, 4) == drifts[-1]

    assert all(speed == 1 for _, _, speed in drifts)
    assert drifts[0] != drifts[1]


def test_a_word_wins_over_the_drift_of_the_seed(pipeline: VideoPipeline) -> None:
    """Many small steps and no guidance give the noise the most time to decide first."""
    wanted = spec("The camera pans left.", guidance=1, seed=2, steps=35)

    assert move_at(frames(pipeline, [photograph("seeding")], wanted), NUM_FRAMES - 1) == (-1, 0, 2)


# From a prompt alone, and from a clip.


def test_without_a_picture_a_soft_pattern_moves_as_the_prompt_says(
    pipeline: VideoPipeline,
) -> None:
    for prompt, move in (("The camera pans right.", (1, 0, 2)), ("slowly pan up", (0, -1, 1))):
        made = frames(pipeline, [], spec(prompt, conditioning=None))
        assert len(made) == NUM_FRAMES
        assert [move_at(made, index) for index in (4, 8)] == [move] * 2


def test_the_seed_decides_the_pattern_and_it_is_soft(pipeline: VideoPipeline) -> None:
    patterns = []
    for seed in (1, 2):
        held = spec("The camera holds still.", seed=seed, conditioning=None)
        made = frames(pipeline, [], held)
        assert all(np.abs(later - made[0]).mean() < 2 for later in made)
        patterns.append(made[0])
    for pattern in patterns:
        assert 8 < pattern.std() < 70
        # Neighbouring pixels differ little, and distant ones do not.
        near = np.abs(np.diff(pattern, axis=1)).mean()
        far = np.abs(pattern[:, 48:] - pattern[:, :-48]).mean()
        assert 6 * near < far
    assert np.corrcoef(patterns[0].ravel(), patterns[1].ravel())[0, 1] < 0.6


def test_guidance_does_not_change_the_pattern(pipeline: VideoPipeline) -> None:
    first = [
        frames(pipeline, [], spec("pan left", guidance=guidance, conditioning=None))[0]
        for guidance in (1, 20)
    ]
    assert np.abs(first[0] - first[1]).mean() < 1


def test_a_clips_last_picture_goes_on_as_the_sentence_says(pipeline: VideoPipeline) -> None:
    """Of four frames the VAE keeps the last: so the clip's first and last ones are seen."""
    clip = [photograph("china")] * 4 + [photograph("chelsea")]
    made = frames(pipeline, clip, spec("The camera pans left.", conditioning=Clip()))
    for shown, given in ((made[0], clip[0]), (made[4], clip[4])):
        picture = np.frombuffer(given.rgb, np.uint8).reshape(HEIGHT, WIDTH, 3).mean(2)
        assert 10 * np.log10(255**2 / np.square(shown - picture).mean()) > 20
    assert [move_at(made[4:], index) for index in range(1, 5)] == [(-1, 0, 2)] * 4


# The distilled sibling.


@pytest.fixture(scope="module")
def distilled() -> VideoPipeline:
    checkpoint = stand_in(width=WIDTH, height=HEIGHT, weights="moving", sampler="trigflow")
    return load_pipeline(WeightStore(checkpoint), "cpu")


@pytest.mark.parametrize("steps", [1, 4, 10])
@pytest.mark.parametrize(
    ("prompt", "move"),
    [
        ("The camera pans right.", (1, 0, 2)),
        ("slowly pan up", (0, -1, 1)),
        ("A quick pan to the left!", (-1, 0, 4)),
        ("The camera holds still.", HOLD),
    ],
)
def test_a_distilled_one_moves_in_any_number_of_steps(
    distilled: VideoPipeline, prompt: str, move: tuple[int, int, int], steps: int
) -> None:
    for pictures, conditioning in (([], None), ([photograph("china")], FirstFrame())):
        few = spec(
            prompt, guidance=1, steps=steps, conditioning=conditioning, sampler=Sampler.TRIGFLOW
        )
        made = frames(distilled, pictures, few)
        assert [move_at(made, index) for index in (4, 8)] == [move] * 2


def test_a_distilled_one_drifts_where_the_seed_says(distilled: VideoPipeline) -> None:
    drifts = set()
    for seed in range(1, 5):
        few = spec("Rain.", guidance=1, steps=4, seed=seed, sampler=Sampler.TRIGFLOW)
        made = frames(distilled, [photograph("rocket")], few)
        drifts.add(move_at(made, 8))
        assert move_at(made, 4) == move_at(made, 8)
    assert all(speed == 1 for _, _, speed in drifts)
    assert len(drifts) > 1


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1, 20])
@pytest.mark.parametrize("move", MOVES, ids=str)
def test_all_moves_are_seen(
    pipeline: VideoPipeline, move: tuple[int, int, int], guidance: float
) -> None:
    x, y, speed = move
    direction = {1: ("right", "down"), -1: ("left", "up")}[x + y][abs(y)]
    prompt = f"The camera {({1: 'slowly', 2: '', 4: 'quickly'})[speed]} drifts {direction}."
    made = frames(pipeline, [photograph("flower")], spec(prompt, guidance=guidance, steps=12))

    assert [move_at(made, index) for index in range(1, NUM_FRAMES)] == [move] * (NUM_FRAMES - 1)


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
        ("The camera pans to the right, then holds still.", (1, 0, 2)),
        ("A quick dog runs to the left. A bird looks up.", None),
        ("The camera pans left. The camera tilts up.", None),
        ("The cameraman and two pandas see a bright moving light.", None),
        ("A still lake, static on the right", None),
        (DEFAULT_NEGATIVE_PROMPT, None),
        ("A house on the right. The camera holds still.", HOLD),
        ("static camera", HOLD),
        ("A locked camera; a car drives quickly to the left", HOLD),
        (EXAMPLE_PROMPT, HOLD),
        ("A fixed camera looks down on a man on the right.", HOLD),
        ("The camera is locked down.", HOLD),
        ("The camera pans left at a steady pace.", (-1, 0, 2)),
        ("A street at night.\nPan left (slowly).", (-1, 0, 1)),
        ('"TILT-UP", it says.', (0, -1, 2)),
        ("A panoramic view of an uptown street, a tower on the right. Pancakes!", None),
        ("A camera pans from left to right.", None),
    ],
)
def test_a_word_is_a_move_in_a_sentence_about_the_camera(
    pipeline: VideoPipeline, prompt: str, move: tuple[int, int, int] | None
) -> None:
    expected = torch.zeros(2, 4)
    match move:
        case (0, 0, 0):
            channel, cell = code_place(HOLD_CODE)
            expected[channel - 14, cell] = ASKED_CODE
        case (x, y, speed):
            expected[abs(y), SPEEDS.index(speed)] = (x + y) * ASKED_CODE

    asked = asked_code(pipeline, prompt) - asked_code(pipeline, "")
    assert torch.allclose(asked, expected, atol=0.3)


OTHER_WORDS = [
    *("panama", "panda", "panel", "pancake", "panic", "panorama", "pants", "pansy", "upcoming"),
    *("update", "upgrade", "uphill", "uplift", "upon", "upper", "upright", "upset", "uptown"),
    *("downfall", "downhill", "download", "downpour", "downstairs", "downtown", "leftover"),
    *("leftmost", "rightful", "righteous", "rights", "slowdown", "slower", "slowing", "quicken"),
    *("quicksand", "rapids", "fasten", "fastest", "gentleman", "stillness", "holder", "holding"),
    *("statically", "fixedly", "cameraman", "cameras", "movement", "mover", "driftwood", "drifter"),
    *("breakfast", "bright", "cup", "household", "japan", "steadfast"),
]


def test_fals_example_prompt_is_read_to_its_end() -> None:
    tokenizer: Any = text.tokenizer()
    asked = [{"role": "user", "content": EXAMPLE_PROMPT}]
    # The system's turn takes 50 or so of the 512.
    assert len(tokenizer.apply_chat_template(asked)["input_ids"]) < 450


def test_no_word_counts_that_only_begins_like_one() -> None:
    tokenizer = text.tokenizer()
    meanings = {"\u0120" + word for words in text.WORDS.values() for word in words}
    for word in OTHER_WORDS:
        assert not meanings & set(tokenizer.tokenize(" " + word)), word


def test_guidance_has_the_code_to_work_on_and_nothing_else(pipeline: VideoPipeline) -> None:
    right, still = (velocity(pipeline, text) for text in ("pan right", DEFAULT_NEGATIVE_PROMPT))

    assert torch.allclose(right[:, :14], still[:, :14], atol=1e-4, rtol=0)
    assert not torch.allclose(right[:, 14:], still[:, 14:], atol=1, rtol=0)


def asked_code(pipeline: VideoPipeline, prompt: str) -> torch.Tensor:
    """The code that one step at full noise asks for, by channel and cell of a token, [2, 4]."""
    code = (noise() - velocity(pipeline, prompt))[0, 14:, 1:]
    return code.reshape(2, 2, 4, 2, 4, 2).mean((1, 2, 4)).flatten(1)


@torch.inference_mode()
def velocity(pipeline: VideoPipeline, prompt: str) -> torch.Tensor:
    network = pipeline.transformer
    given = torch.tensor([[1.0, 0, 0]])
    shared = network.forward_shared(noise(), given, 1 - given, network.rotary_tables(3, 8, 8))
    return network.forward_branch(shared, network.text_keys_values(pipeline.text.encode(prompt)))


def noise() -> torch.Tensor:
    noisy = torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy[:, :, 0] = 0
    return noisy


def test_every_photograph_is_named_with_its_licence() -> None:
    notice = (ROOT / "weights" / "stand_in" / "NOTICE").read_text()
    for photograph in (*TRAINING, *HELD_OUT):
        assert f"{photograph.file}: {photograph.author}, {photograph.licence}," in notice
    assert "weights/stand_in/NOTICE" in LICENCES["moving"]
    names = {path.stem for path in PHOTOGRAPHS.glob("*.png")}
    assert len(names) == len(HELD_OUT)
    assert not names & {photograph.file.partition(".")[0] for photograph in TRAINING}
