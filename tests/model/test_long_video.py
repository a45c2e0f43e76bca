"""A long video: chunks that go on from one another, as NVIDIA chains them, in one file."""

import gc
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import stand_in
from test_generate import Listener, _frames
from torch import Tensor
from torch.nn import Parameter

from pipeline.denoise import denoise
from pipeline.errors import Cancelled, InvalidSpec
from pipeline.generate import VideoPipeline
from pipeline.load import load_pipeline
from pipeline.long_video import chunks_of
from pipeline.progress import Progress, Stage, StageStarted, StepDone
from pipeline.spec import MAX_SEED, Clip, Container, FirstFrame, Pixels, Quality, VideoSpec
from pipeline.vae import decode_video, encode, to_frames, to_video
from weights.store import WeightStore

CHUNK = 9
SPEC = VideoSpec(
    prompt="A calm sea.",
    seed=1,
    num_frames=20,
    num_inference_steps=2,
    overlap=1,
    container=Container.PRORES4444,
    quality=Quality.MAXIMUM,
)


@pytest.fixture(scope="module")
def pipeline() -> VideoPipeline:
    """One whose longest video is short, so that a long one is, too."""
    return replace(load_pipeline(WeightStore(stand_in()), "cpu"), max_frames=CHUNK)


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return Pixels(96, 64, random.Random(0).randbytes(96 * 64 * 3))


@pytest.mark.parametrize(
    ("overlap", "num_frames", "shown"),
    [
        (1, 93, [93]),
        (1, 94, [93, 1]),
        (1, 185, [93, 92]),
        (1, 186, [93, 92, 1]),
        (1, 369, [93, 92, 92, 92]),
        (5, 94, [93, 1]),
        (5, 357, [93, 88, 88, 88]),
        (None, 93, [93]),
    ],
)
def test_a_video_has_as_many_chunks_as_it_needs(
    overlap: int | None, num_frames: int, shown: list[int]
) -> None:
    chunks = chunks_of(VideoSpec(prompt="", seed=1, num_frames=num_frames, overlap=overlap), 93)
    assert [chunk.shown for chunk in chunks] == shown
    assert [chunk.repeated for chunk in chunks] == [0, *[overlap] * (len(shown) - 1)]
    # The last one is made at full length, too.
    assert {chunk.spec.num_frames for chunk in chunks} == {93}
    assert [chunk.spec.seed for chunk in chunks] == [1 + index for index in range(len(chunks))]


def test_a_short_video_is_one_chunk_of_its_own_length() -> None:
    (chunk,) = chunks_of(VideoSpec(prompt="", seed=1, num_frames=12, overlap=5), 93)
    assert (chunk.spec.num_frames, chunk.shown) == (12, 12)


def test_the_first_chunk_alone_starts_from_what_the_request_gives() -> None:
    spec = VideoSpec(prompt="", seed=MAX_SEED, num_frames=185, overlap=1, conditioning=None)
    first, second = chunks_of(spec, 93)
    assert (first.spec.conditioning, second.spec.conditioning) == (None, Clip())
    assert (first.spec.seed, second.spec.seed) == (MAX_SEED, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"overlap": 2}, "overlap is 2; it must be 1 or 5."),
        ({"num_frames": 370, "overlap": 1}, "num_frames is 370; it must be from 9 to 369."),
        ({"num_frames": 358, "overlap": 5}, "num_frames is 358; it must be from 9 to 357."),
        ({"num_frames": 94}, "num_frames is 94; it must be from 9 to 93."),
    ],
)
def test_a_video_is_no_longer_than_four_chunks(values: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidSpec, match=f"^{message}$"):
        VideoSpec(prompt="", seed=1, **values)  # type: ignore[arg-type]


def chained_by_hand(pipeline: VideoPipeline, pixels: Pixels, overlap: int) -> list[Tensor]:
    """The frames of two chunks, as NVIDIA's program chains them but for its rounding between."""
    video, frames = to_video([pixels]), []
    prompt, negative = (pipeline.text.encode(t) for t in (SPEC.prompt, SPEC.negative_prompt))
    for index in range(2):
        spec = replace(SPEC, overlap=None, num_frames=CHUNK, seed=SPEC.seed + index)
        latents = denoise(
            pipeline.transformer,
            pipeline.scheduler_config,
            encode(pipeline.vae, video),
            prompt,
            negative,
            spec,
            lambda *_: None,
        )
        made = torch.cat(list(decode_video(pipeline.vae, latents)), dim=2)
        frames.append(made[:, :, overlap if index else 0 :])
        video = made[:, :, -overlap:]
    return frames


@pytest.mark.parametrize("overlap", [1, 5])
def test_chunks_go_on_from_one_another(
    pipeline: VideoPipeline, pixels: Pixels, overlap: int
) -> None:
    spec = replace(SPEC, num_frames=2 * CHUNK - overlap, overlap=overlap)
    frames = list(pipeline._frames(spec, [pixels], Listener().watcher))
    expected = [f for made in chained_by_hand(pipeline, pixels, overlap) for f in to_frames(made)]
    assert len(frames) == spec.num_frames
    np.testing.assert_array_equal(np.stack(frames), np.stack(expected))


def test_one_file_holds_all_chunks_and_progress_counts_through_them(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path
) -> None:
    listener, out = Listener(), tmp_path / "out.mov"
    video = pipeline.generate(SPEC, [pixels], out, listener.watcher)
    assert (video.num_frames, _frames(out).shape[0]) == (20, 20)
    stages = [p.stage for p in listener.heard if isinstance(p, StageStarted)]
    chunk = [Stage.IMAGE, Stage.DENOISE, Stage.DECODE]
    assert stages == [Stage.TEXT, *chunk, *chunk, *chunk, Stage.ENCODE]
    steps = [p for p in listener.heard if isinstance(p, StepDone)]
    assert [(p.step, p.num_steps) for p in steps] == [(n, 6) for n in range(1, 7)]
    left = [p.seconds_left for p in steps]
    assert left[0] > left[-1] > 0


@pytest.mark.parametrize("conditioning", [None, FirstFrame(), Clip()])
def test_a_long_video_starts_from_what_any_other_does(
    pipeline: VideoPipeline, pixels: Pixels, conditioning: FirstFrame | Clip | None
) -> None:
    spec = replace(SPEC, num_inference_steps=1, num_frames=12, conditioning=conditioning)
    pictures = {None: [], FirstFrame(): [pixels], Clip(): [pixels] * 5}[conditioning]
    assert len(list(pipeline._frames(spec, pictures, Listener().watcher))) == 12


@pytest.mark.parametrize("step", [2, 3])
def test_a_long_video_can_be_cancelled_between_chunks_and_within(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path, step: int
) -> None:
    def reached(progress: Progress) -> bool:
        return isinstance(progress, StepDone) and progress.step == step

    listener = Listener(stop_at=reached)
    with pytest.raises(Cancelled):
        pipeline.generate(SPEC, [pixels], tmp_path / "out.mov", listener.watcher)
    assert reached(listener.heard[-1])
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_chunks(
    pipeline: VideoPipeline, pixels: Pixels, tmp_path: Path
) -> None:
    """Neither latents nor frames of the chunks before are kept, but for the overlap."""
    held: list[int] = []

    def tell(progress: Progress) -> bool:
        if isinstance(progress, StageStarted) and progress.stage is Stage.DENOISE:
            gc.collect()
            # By the exact types: tensors that other tests left behind for counting have no size.
            tensors = [o for o in gc.get_objects() if type(o) in (Tensor, Parameter)]
            held.append(sum(tensor.nbytes for tensor in tensors))
        return False

    spec = replace(SPEC, num_frames=33, num_inference_steps=1)
    pipeline.generate(spec, [pixels], tmp_path / "out.mov", Listener(tell).watcher)
    assert len(held) == 4
    assert held[1] == held[2] == held[3]
