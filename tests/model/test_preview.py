"""Previews: they resemble the video, grow with the steps, and change no bit of it."""

import io
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paths import ROOT
from PIL import Image
from stand_ins import stand_in
from test_generate import Listener, Strict
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pipeline import preview as module
from pipeline.errors import ContentPolicyViolation
from pipeline.generate import VideoPipeline
from pipeline.guardrail import Frame, NoGuardrail, judged_frames
from pipeline.image import prepare
from pipeline.load import load_pipeline
from pipeline.long_video import chunks_of
from pipeline.preview import LatentRgb, animation, fit_latent_rgb, previews
from pipeline.progress import Watcher
from pipeline.spec import Container, Pixels, Sampler, VideoSpec
from pipeline.vae import decode, encode, to_video
from weights.stand_in.photographs import HELD_OUT
from weights.store import WeightStore

WIDTH, HEIGHT = 160, 96
SPEC = VideoSpec(prompt="The camera pans right.", seed=1, num_frames=9, num_inference_steps=3)

Pictures = np.ndarray[Any, np.dtype[np.float64]]


def moving(**changes: Any) -> VideoPipeline:
    checkpoint = stand_in(width=WIDTH, height=HEIGHT, weights="moving", **changes)
    pipeline = load_pipeline(WeightStore(checkpoint), "cpu")
    return replace(pipeline, sketch=fit_latent_rgb(pipeline.vae))


@pytest.fixture(scope="module")
def pipeline() -> VideoPipeline:
    """A small one, whose videos are noise."""
    pipeline = load_pipeline(WeightStore(stand_in()), "cpu")
    return replace(pipeline, sketch=fit_latent_rgb(pipeline.vae), max_frames=9)


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return Pixels(96, 64, bytes(range(256)) * 72)


@pytest.fixture(autouse=True)
def after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.0)


class Shown:
    """A watcher that keeps the previews."""

    def __init__(self) -> None:
        self.files: list[bytes] = []
        self.watcher = Watcher(lambda _progress: None, lambda: False, self.files.append)


def likeness(one: Pictures, other: Pictures) -> float:
    """The correlation of two sets of pictures."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def cells(frames: list[Frame]) -> Pictures:
    """The mean colour of each 8x8 pixels, [frames, height / 8, width / 8, 3]."""
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).double()
    return avg_pool2d(pixels, 8).permute(0, 2, 3, 1).numpy()


def sketched(pipeline: VideoPipeline, latents: Tensor) -> Pictures:
    assert pipeline.sketch is not None
    return pipeline.sketch(latents).double().numpy()


def test_a_preview_looks_like_the_decoded_frames() -> None:
    pipeline = moving()
    path = ROOT / "benchmarks" / "photographs" / HELD_OUT[0].file
    photograph = prepare(path.read_bytes(), WIDTH, HEIGHT)
    moved = [
        np.roll(np.frombuffer(photograph.rgb, np.uint8).reshape(HEIGHT, WIDTH, 3), 2 * n, axis=1)
        for n in range(9)
    ]
    video = to_video([Pixels(WIDTH, HEIGHT, frame.tobytes()) for frame in moved])
    latents = encode(pipeline.vae, video)
    decoded = cells(list(decode(pipeline.vae, latents)))
    # The first latent frame is one frame, and the others are four each.
    shown = np.stack([decoded[0], decoded[1:5].mean(0), decoded[5:9].mean(0)])

    made = sketched(pipeline, latents)

    assert made.shape == (3, HEIGHT // 8, WIDTH // 8, 3)
    for colour in range(3):
        assert likeness(made[..., colour], shown[..., colour]) > 0.85
    assert np.abs(made - shown).mean() < 12


def test_the_fit_finds_a_linear_vae(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three latent channels that are colours and others that are not."""
    generator = torch.Generator().manual_seed(1)
    mixing, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator))

    def encoded(_vae: Any, video: Tensor) -> Tensor:
        frames = video[0, :, ::4].transpose(0, 1)
        colours = avg_pool2d(frames, 8)
        others = torch.randn(len(frames), 13, *colours.shape[2:], generator=generator)
        channels = torch.cat([colours, others], dim=1).transpose(0, 1)
        return torch.einsum("ij,jthw->ithw", mixing, channels)[None]

    monkeypatch.setattr(module, "encode", encoded)
    fitted = fit_latent_rgb(None)  # type: ignore[arg-type]
    expected = torch.linalg.inv(mixing)[:3].T
    assert float((fitted.factors - expected).norm() / expected.norm()) < 0.2


def test_colours_beyond_white_and_black_are_white_and_black() -> None:
    rgb = LatentRgb(torch.eye(16)[:, :3], torch.zeros(3))
    latents = torch.zeros(1, 16, 1, 1, 3)
    latents[0, 0, 0, 0] = torch.tensor([-5.0, 0.0, 5.0])
    assert rgb(latents)[0, 0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("sampler", [Sampler.UNIPC, Sampler.TRIGFLOW])
def test_the_picture_grows_out_of_the_noise(sampler: Sampler) -> None:
    pipeline = moving(sampler=sampler.value)
    spec = replace(
        SPEC,
        num_inference_steps=3,
        conditioning=None,
        sampler=sampler,
        guidance_scale=sampler.default_guidance,
    )
    (chunk,) = chunks_of(spec, pipeline.max_frames)
    watcher, clean = Shown().watcher, list[Tensor]()
    prompts = pipeline._encode_text(spec, watcher)
    given = pipeline._encode(chunk, None, watcher)
    latents = pipeline._denoise(chunk, given, prompts, clean.append, watcher)

    decoded = cells(list(decode(pipeline.vae, latents)))
    last = np.stack([decoded[0], *decoded[1:].reshape(2, 4, *decoded.shape[1:]).mean(1)])
    alike = [likeness(sketched(pipeline, each), last) for each in clean]
    assert len(clean) == 3
    assert torch.equal(clean[-1], latents)
    assert alike[-1] > max(0.9, alike[0])


@pytest.mark.parametrize("num_frames", [9, 12])
def test_previews_change_no_bit_of_a_video_and_show_each_chunk(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path, num_frames: int
) -> None:
    spec = replace(SPEC, num_frames=num_frames, overlap=1 if num_frames > 9 else None)
    shown, outs = Shown(), [tmp_path / "with.mp4", tmp_path / "without.mp4"]
    pipeline.generate(spec, [pixels], outs[0], shown.watcher)
    pipeline.generate(spec, [pixels], outs[1], Listener().watcher)

    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert shown.files
    for file in shown.files:
        with Image.open(io.BytesIO(file)) as image:
            assert (image.format, image.size) == ("WEBP", (12, 8))


def test_a_preview_lasts_as_long_as_the_video() -> None:
    frames = [np.full((88, 160, 3), 10 * number, np.uint8) for number in range(24)]
    with Image.open(io.BytesIO(animation(frames))) as image:
        image.load()
        assert (image.size, image.n_frames) == ((160, 88), 24)  # type: ignore[attr-defined]
        assert image.info["duration"] == 4 * 1000 / 16


def make_all(pipeline: VideoPipeline, pixels: Pixels, out: Path) -> list[bytes]:
    """The previews of a video that is made."""
    shown = Shown()
    spec = replace(SPEC, container=Container.GIF)
    assert pipeline.generate(spec, [pixels], out, shown.watcher).num_frames == 9
    return shown.files


def test_a_guardrail_sees_the_frames_of_a_preview_that_it_sees_of_a_video(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path
) -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []

    class Watching(NoGuardrail):
        def check_frame(self, index: int, frame: Frame) -> None:
            seen.append((index, frame.shape))

    files = make_all(replace(pipeline, guardrail=Watching()), pixels, tmp_path / "out.gif")

    small = [index for index, shape in seen if shape == (8, 12, 3)]
    assert small == sorted(judged_frames(9)) * len(files)
    assert files


@pytest.mark.parametrize("error", [ContentPolicyViolation, RuntimeError])
def test_a_preview_without_a_verdict_is_not_shown_and_the_video_is_made(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path, error: type[Exception]
) -> None:
    class Refusing(Strict):
        def check_frame(self, index: int, frame: Frame) -> None:
            if frame.shape[0] < 64:
                raise error

    guarded = replace(pipeline, guardrail=Refusing())
    assert make_all(guarded, pixels, tmp_path / "out.gif") == []


def test_a_preview_that_cannot_be_made_or_sent_costs_no_video(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(latents: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    assert make_all(replace(pipeline, sketch=broken), pixels, tmp_path / "a.gif") == []
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    assert make_all(pipeline, pixels, tmp_path / "b.gif") == []


def offered(monkeypatch: pytest.MonkeyPatch, sketch: Callable[[Tensor], Tensor]) -> Any:
    """Previews whose time passes as the test says."""
    now = [0.0]
    monkeypatch.setattr(module, "EVERY_S", 2.0)
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now, previews(sketch, NoGuardrail(), lambda _: None)


def test_there_is_one_preview_in_two_seconds_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []

    def sketch(latents: Tensor) -> Tensor:
        made.append(float(latents[0, 0, 0, 0, 0]))
        return torch.zeros(1, 8, 8, 3, dtype=torch.uint8)

    now, making = offered(monkeypatch, sketch)
    with making as offer:
        for seconds in (0.5, 1.9, 2.0, 3.9, 4.5):
            now[0] = seconds
            while made != [each for each in (2.0, 4.5) if each <= seconds]:
                offer(torch.full((1, 16, 1, 8, 8), seconds))
            offer(torch.full((1, 16, 1, 8, 8), seconds))
    assert made == [2.0, 4.5]


def test_no_step_waits_for_a_preview(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, made = threading.Event(), threading.Event(), []

    def slow(latents: Tensor) -> Tensor:
        begun.set()
        assert go_on.wait(30)
        made.append(float(latents[0, 0, 0, 0, 0]))
        return torch.zeros(1, 8, 8, 3, dtype=torch.uint8)

    now, making = offered(monkeypatch, slow)
    with making as offer:
        for seconds in (2.0, 4.0, 6.0):
            now[0] = seconds
            offer(torch.full((1, 16, 1, 8, 8), seconds))
            assert begun.wait(30)
        go_on.set()
    assert made == [2.0]
