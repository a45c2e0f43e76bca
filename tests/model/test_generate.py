"""From a spec and a picture to a file, on a stand-in checkpoint."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from stand_ins import stand_in

from pipeline.errors import Cancelled, ContentPolicyViolation
from pipeline.generate import VideoPipeline
from pipeline.guardrail import Frame
from pipeline.load import load_pipeline
from pipeline.progress import Note, Progress, Restarted, Stage, StageStarted, StepDone, Watcher
from pipeline.spec import Clip, Conditioning, Container, FirstFrame, Pixels, VideoSpec
from weights.store import WeightStore

WIDTH, HEIGHT = 96, 64
SPEC = VideoSpec(prompt="A calm sea.", seed=1, num_frames=10, num_inference_steps=3)


@dataclass
class Listener:
    """Keeps what it hears, and asks to stop once `stop_at` says so."""

    stop_at: Callable[[Progress], bool] = lambda progress: False
    heard: list[Progress] = field(default_factory=list)
    stopping: bool = False

    def tell(self, progress: Progress) -> None:
        self.heard.append(progress)
        self.stopping = self.stopping or self.stop_at(progress)

    @property
    def watcher(self) -> Watcher:
        return Watcher(self.tell, lambda: self.stopping)


@pytest.fixture(scope="module")
def pipeline() -> VideoPipeline:
    return load_pipeline(WeightStore(stand_in()), "cpu")


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return Pixels(WIDTH, HEIGHT, random.Random(0).randbytes(WIDTH * HEIGHT * 3))


def _frames(path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    with av.open(str(path)) as video:
        return np.stack([f.to_ndarray(format="rgb24") for f in video.decode(video=0)])


def test_a_video_is_made(pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path) -> None:
    listener = Listener()
    video = pipeline.generate(SPEC, [pixels], tmp_path / "out.mp4", listener.watcher)
    assert video.num_frames == 10
    assert _frames(video.path).shape == (10, HEIGHT, WIDTH, 3)
    stages = [p.stage for p in listener.heard if isinstance(p, StageStarted)]
    assert stages == [Stage.TEXT, Stage.IMAGE, Stage.DENOISE, Stage.DECODE, Stage.ENCODE]
    steps = [p for p in listener.heard if isinstance(p, StepDone)]
    assert [(p.step, p.num_steps) for p in steps] == [(1, 3), (2, 3), (3, 3)]
    assert all(p.seconds_per_step > 0 for p in steps)
    assert steps[0].seconds_left > 0


def test_the_same_request_gives_the_same_bytes_and_another_seed_others(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path
) -> None:
    made = []
    for index, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"{index}.mp4"
        pipeline.generate(replace(SPEC, seed=seed), [pixels], out, Listener().watcher)
        made.append(out.read_bytes())
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize("value", ["prompt", "negative_prompt", "guidance_scale", "steps"])
def test_every_input_matters(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path, value: str
) -> None:
    other = {
        "prompt": replace(SPEC, prompt="A storm."),
        "negative_prompt": replace(SPEC, negative_prompt=""),
        "guidance_scale": replace(SPEC, guidance_scale=2.0),
        "steps": replace(SPEC, num_inference_steps=4),
    }[value]
    outs = [tmp_path / "one.mp4", tmp_path / "other.mp4"]
    for spec, out in zip((SPEC, other), outs, strict=True):
        pipeline.generate(spec, [pixels], out, Listener().watcher)
    assert outs[0].read_bytes() != outs[1].read_bytes()


def test_without_guidance_the_negative_prompt_is_not_even_read(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path
) -> None:
    outs = [tmp_path / "one.mp4", tmp_path / "other.mp4"]
    for negative_prompt, out in zip(("dark", "bright"), outs, strict=True):
        spec = replace(SPEC, guidance_scale=1.0, negative_prompt=negative_prompt)
        pipeline.generate(spec, [pixels], out, Listener().watcher)
    assert outs[0].read_bytes() == outs[1].read_bytes()


@pytest.mark.parametrize("moment", [Stage.TEXT, Stage.DENOISE, 2, Stage.DECODE, Stage.ENCODE])
def test_a_video_cancelled_at_a_stage_or_step_stops_and_leaves_nothing(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path, moment: Stage | int
) -> None:
    def reached(progress: Progress) -> bool:
        match progress:
            case StageStarted(stage=stage):
                return stage == moment
            case StepDone(step=step):
                return step == moment
            case Note() | Restarted():
                return False

    listener = Listener(stop_at=reached)
    processes = psutil.Process().children()
    with pytest.raises(Cancelled):
        pipeline.generate(SPEC, [pixels], tmp_path / "out.mp4", listener.watcher)
    assert reached(listener.heard[-1]), "work went on after the cancel"
    assert list(tmp_path.iterdir()) == []
    assert psutil.Process().children() == processes


def test_a_cancelled_video_does_not_touch_the_next(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path
) -> None:
    before, after = tmp_path / "before.mp4", tmp_path / "after.mp4"
    pipeline.generate(SPEC, [pixels], before, Listener().watcher)
    cancel = Listener(stop_at=lambda p: isinstance(p, StageStarted) and p.stage is Stage.DECODE)
    with pytest.raises(Cancelled):
        pipeline.generate(
            replace(SPEC, prompt="Other."), [pixels], tmp_path / "x.mp4", cancel.watcher
        )
    pipeline.generate(SPEC, [pixels], after, Listener().watcher)
    assert before.read_bytes() == after.read_bytes()


def test_a_prompt_that_is_cut_says_so_every_time(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path
) -> None:
    spec = replace(SPEC, prompt="word " * 300, num_inference_steps=1)
    for _ in range(2):
        listener = Listener()
        pipeline.generate(spec, [pixels], tmp_path / "out.mp4", listener.watcher)
        (note,) = (p for p in listener.heard if isinstance(p, Note))
        assert "The prompt takes 1" in note.message and "512" in note.message


def test_the_default_negative_prompt_is_not_complained_about(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path
) -> None:
    """It is longer than the stand-in's byte-wise tokenizer can take; nobody chose it."""
    assert pipeline.text.num_tokens(SPEC.negative_prompt) > 512
    listener = Listener()
    pipeline.generate(SPEC, [pixels], tmp_path / "out.mp4", listener.watcher)
    assert not any(isinstance(p, Note) for p in listener.heard)


class Strict:
    """Refuses one prompt, one picture or one frame, and notes what it was shown."""

    def __init__(self, refused: str | int | None = None) -> None:
        self._refused = refused
        self.prompts: list[str] = []
        self.frames: dict[int, Frame] = {}

    def check_prompt(self, prompt: str) -> None:
        self.prompts.append(prompt)
        self._judge("prompt")

    def check_image(self, image: Pixels) -> None:
        self._judge("image")

    def check_frame(self, index: int, frame: Frame) -> None:
        self.frames[index] = frame.copy()
        self._judge(index)

    def _judge(self, what: str | int) -> None:
        if what == self._refused:
            raise ContentPolicyViolation


def test_the_guardrail_sees_the_prompt_and_the_first_the_last_and_every_eighth_frame(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path
) -> None:
    guardrail = Strict()
    guarded = replace(pipeline, guardrail=guardrail)
    spec = replace(SPEC, num_frames=18, container=Container.GIF)
    guarded.generate(spec, [pixels], tmp_path / "out.gif", Listener().watcher)
    assert guardrail.prompts == [spec.prompt]
    assert sorted(guardrail.frames) == [0, 8, 16, 17]
    assert guardrail.frames[17].shape == (pixels.height, pixels.width, 3)


@pytest.mark.parametrize("refused", ["prompt", "image", 0, 9])
def test_what_the_guardrail_refuses_makes_no_video_and_always_the_same_error(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path, refused: str | int
) -> None:
    guarded = replace(pipeline, guardrail=Strict(refused))
    listener = Listener()
    with pytest.raises(ContentPolicyViolation) as violation:
        guarded.generate(SPEC, [pixels], tmp_path / "no.mp4", listener.watcher)
    assert (violation.value.field, violation.value.context) == ("prompt", {})
    assert "flagged by a content checker" in str(violation.value)
    assert list(tmp_path.iterdir()) == []
    # A prompt or a picture is refused before anything is computed.
    assert bool(listener.heard) == isinstance(refused, int)


def test_a_guardrail_that_fails_makes_no_video(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path
) -> None:
    class Broken(Strict):
        def check_frame(self, index: int, frame: Frame) -> None:
            raise RuntimeError("no verdict")

    guarded = replace(pipeline, guardrail=Broken())
    with pytest.raises(RuntimeError, match="no verdict"):
        guarded.generate(SPEC, [pixels], tmp_path / "no.mp4", Listener().watcher)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("conditioning", "num_pictures"), [(None, 0), (FirstFrame(), 1), (Clip(), 1), (Clip(), 5)]
)
def test_a_video_starts_from_as_many_pictures_as_its_spec_says(
    pipeline: VideoPipeline,
    pixels: Pixels,
    tmp_path: Path,
    conditioning: Conditioning,
    num_pictures: int,
) -> None:
    spec = replace(SPEC, num_inference_steps=1, conditioning=conditioning)
    listener, out = Listener(), tmp_path / "out.mp4"
    pipeline.generate(spec, [pixels] * num_pictures, out, listener.watcher)
    assert _frames(out).shape == (10, HEIGHT, WIDTH, 3)
    stages = [p.stage for p in listener.heard if isinstance(p, StageStarted)]
    assert (Stage.IMAGE in stages) == (num_pictures > 0)


@pytest.mark.parametrize(
    ("conditioning", "num_pictures"), [(None, 1), (FirstFrame(), 0), (FirstFrame(), 5), (Clip(), 4)]
)
def test_other_numbers_of_pictures_are_refused(
    pipeline: VideoPipeline,
    pixels: Pixels,
    tmp_path: Path,
    conditioning: Conditioning,
    num_pictures: int,
) -> None:
    spec = replace(SPEC, conditioning=conditioning)
    with pytest.raises(ValueError, match=f"pictures; {num_pictures} are given"):
        pipeline.generate(spec, [pixels] * num_pictures, tmp_path / "o.mp4", Listener().watcher)


def test_a_picture_of_another_size_is_refused(pipeline: VideoPipeline, tmp_path: Path) -> None:
    small = Pixels(48, 32, bytes(48 * 32 * 3))
    with pytest.raises(ValueError, match="48x32 pixels; the checkpoint makes videos of 96x64"):
        pipeline.generate(SPEC, [small], tmp_path / "out.mp4", Listener().watcher)


@pytest.mark.parametrize("container", Container)
def test_every_container_is_made_end_to_end(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path, container: Container
) -> None:
    spec = replace(SPEC, num_inference_steps=1, container=container)
    video = pipeline.generate(spec, [pixels], tmp_path / "out", Listener().watcher)
    assert _frames(video.path).shape[0] == 10
