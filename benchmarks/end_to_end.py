"""A stand-in from its files to frames: loader, text model and pipeline, on the device and on a CPU.

Nothing of it is fast or slow in a way that says anything: it is here because these parts are in no
other section, and because the frames of a CPU are known to be right.
"""

import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.timing import Case, peak, reset_peak
from benchmarks.without_ffmpeg import frames_go_to
from pipeline.generate import VideoPipeline
from pipeline.guardrail import Frame
from pipeline.load import load_pipeline
from pipeline.memory_plan import MemoryChoice
from pipeline.progress import Progress, StepDone, Watcher
from pipeline.spec import Pixels, VideoSpec
from weights.stand_in.checkpoint import write_stand_in
from weights.store import WeightStore

_WIDTH, _HEIGHT = 96, 64
_SPEC = VideoSpec(prompt="A calm sea.", seed=0, num_frames=9, num_inference_steps=4)

Frames = npt.NDArray[np.uint8]
"""[number, height, width, 3]."""


def end_to_end(device: torch.device) -> Iterator[Case]:
    """Frames on the device beside those of a CPU, in levels of 0 to 255."""
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
        root = Path(folder, "stand-in")
        write_stand_in(root, width=_WIDTH, height=_HEIGHT)
        store = WeightStore(root)
        expected, facts = _video(store, torch.device("cpu"), torch.float32, "resident")
        yield "cpu", facts
        exact, facts = _video(store, device, torch.float32, "resident")
        yield "device, float32", {**facts, **_difference(exact, expected)}
        resident, facts = _video(store, device, None, "resident")
        yield "device", {**facts, **_difference(resident, expected)}
        offloaded, facts = _video(store, device, None, "offload")
        yield "device, offloaded", {**facts, "same frames": np.array_equal(offloaded, resident)}


def _video(
    store: WeightStore, device: torch.device, dtype: torch.dtype | None, memory: MemoryChoice
) -> tuple[Frames, dict[str, Any]]:
    reset_peak(device)
    started = time.perf_counter()
    pipeline = load_pipeline(store, str(device), dtype=dtype, memory=memory)
    loaded = time.perf_counter()
    steps: list[float] = []

    def tell(progress: Progress) -> None:
        if isinstance(progress, StepDone):
            steps.append(progress.seconds_per_step)

    frames = _frames(pipeline, Watcher(tell, lambda: False))
    return frames, {
        "load_s": loaded - started,
        "video_s": time.perf_counter() - loaded,
        "steps_s": steps,
        "attention": pipeline.attention.name,
        "sha256": hashlib.sha256(frames.tobytes()).hexdigest(),
        **peak(device),
    }


def _frames(pipeline: VideoPipeline, watcher: Watcher) -> Frames:
    """The frames of one video, which are not encoded: there may be no ffmpeg."""
    taken: list[Frame] = []
    picture = np.random.default_rng(0).integers(0, 256, (_HEIGHT, _WIDTH, 3), dtype=np.uint8)
    with frames_go_to(lambda frame: taken.append(frame.copy()), _WIDTH, _HEIGHT):
        pixels = Pixels(_WIDTH, _HEIGHT, picture.tobytes())
        pipeline.generate(_SPEC, [pixels], Path("unwritten"), watcher)
    return np.stack(taken)


def _difference(frames: Frames, expected: Frames) -> dict[str, float]:
    levels = np.abs(frames.astype(np.int16) - expected)
    return {"mean difference": float(levels.mean()), "largest difference": float(levels.max())}
