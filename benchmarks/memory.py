"""Every memory plan from the files on: seconds and peak memory of each stage, the same frames.

A checkpoint of the scale's sizes is written to a temporary folder, and each plan loads it as a
worker does and makes a video of one step: what waiting in host memory costs does not depend on the
number of steps.
"""

import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.full_checkpoint import write_checkpoint
from benchmarks.full_size import Scale
from benchmarks.timing import Case, peak, reset_peak, synchronize
from benchmarks.without_ffmpeg import frames_go_to
from pipeline.generate import VideoPipeline
from pipeline.load import load_pipeline
from pipeline.memory_plan import MemoryChoice
from pipeline.progress import Progress, StageStarted, Watcher
from pipeline.spec import Pixels, VideoSpec
from weights.store import WeightStore

_PLANS: tuple[MemoryChoice, ...] = ("resident", "offload", "stream")


def memory_plans(scale: Scale, device: torch.device) -> Iterator[Case]:
    """Loading, and a video by every plan; the first video of all warms up."""
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
        root = Path(folder, "checkpoint")
        started = time.perf_counter()
        write_checkpoint(root, scale, device)
        yield "write_s", time.perf_counter() - started
        store = WeightStore(root)
        made: set[str] = set()
        for plan in _PLANS:
            reset_peak(device)
            started = time.perf_counter()
            pipeline = load_pipeline(store, str(device), memory=plan)
            synchronize(device)
            loading = {"seconds": time.perf_counter() - started, **peak(device)}
            if not made:
                yield "first video", _video(pipeline, scale, device)[0]
            stages, digest = _video(pipeline, scale, device)
            yield plan, {"load": loading, **stages, "attention": pipeline.attention.name}
            made.add(digest)
            del pipeline
        yield "same frames", len(made) == 1


def _video(
    pipeline: VideoPipeline, scale: Scale, device: torch.device
) -> tuple[dict[str, dict[str, float]], str]:
    """The stages of one video whose prompt was not seen before, and a hash of its frames."""
    stages = _Stages(device)
    digest = hashlib.sha256()

    rgb = np.random.default_rng(3).integers(0, 256, scale.width * scale.height * 3, dtype=np.uint8)
    spec = VideoSpec(
        prompt="A calm sea.", seed=0, num_frames=scale.num_frames, num_inference_steps=1
    )
    pipeline.text.forget()
    with frames_go_to(lambda f: digest.update(f.tobytes()), scale.width, scale.height):
        pixels = Pixels(scale.width, scale.height, rgb.tobytes())
        pipeline.generate(spec, [pixels], Path("unwritten"), Watcher(stages.tell, lambda: False))
    stages.end()
    return stages.measured, digest.hexdigest()


class _Stages:
    """Seconds and peak memory from the start of each stage to that of the next."""

    def __init__(self, device: torch.device) -> None:
        self.measured: dict[str, dict[str, Any]] = {}
        self._device = device
        self._stage: str | None = None
        self._started = 0.0

    def tell(self, progress: Progress) -> None:
        if isinstance(progress, StageStarted):
            self.end()
            reset_peak(self._device)
            self._stage, self._started = progress.stage.value, time.perf_counter()

    def end(self) -> None:
        if self._stage is not None:
            synchronize(self._device)
            seconds = time.perf_counter() - self._started
            self.measured[self._stage] = {"seconds": seconds, **peak(self._device)}
