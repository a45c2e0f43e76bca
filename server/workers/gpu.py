"""The real worker: a VideoPipeline for each checkpoint, on one device or on several.

The one file of the server that reaches torch, and it does so when the model is loaded, so that
importing this module costs nothing.
"""

import dataclasses
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import structlog

from pipeline import thumbnail
from pipeline.guardrail import is_endpoint
from pipeline.memory_plan import MemoryPlan
from pipeline.progress import Progress, Restarted, Stage, StageStarted, Watcher
from pipeline.ranks import check_ranks, start_ranks
from pipeline.spec import Sampler
from server.config.setting_types import PreviewChoice
from server.workers.loop import RANK_EXIT_CODE, CannotLoad, WorkerOptions
from server.workers.messages import (
    MAX_CHUNK_BYTES,
    Artifact,
    Chunk,
    Done,
    Loading,
    Preview,
    Ready,
    RunEvent,
    WorkOrder,
)
from server.workers.verdicts import Judge, ServerGuardrail
from weights.checkpoints import digest_of, open_checkpoints
from weights.errors import CheckpointError
from weights.store import WeightStore

if TYPE_CHECKING:
    from pipeline.encode import EncodedVideo
    from pipeline.generate import VideoPipeline
    from pipeline.preview import Sketch

Send = Callable[[RunEvent], None]

_log = structlog.get_logger("worker")


class GpuWorker:
    """Makes videos with one checkpoint or several; on a CPU too, only slower."""

    _pipelines: "Mapping[Sampler, VideoPipeline]"

    def __init__(self, device: str, options: WorkerOptions) -> None:
        """Take note of `device` (`cpu` or `cuda`) and the options."""
        self._device = device
        self._options = options
        self._asks_server = is_endpoint(options.guardrail)

    @property
    def memory(self) -> MemoryPlan:
        """The plan by which the loaded model is placed now."""
        # They have one placement.
        return next(iter(self._pipelines.values())).placement.plan

    def load(self, report: Callable[[Loading], None]) -> Ready:
        """Import torch and load the checkpoint."""
        report(Loading("Importing torch", 0.0))
        import torch

        from pipeline.denoise import EXACT, NVIDIA
        from pipeline.libraries import versions
        from pipeline.load import load_pipelines

        try:
            stores = open_checkpoints(self._options.weights)
            self._check_ranks(stores)
            decoder = self._preview_decoder(stores[0].root)
            pipelines = load_pipelines(
                stores,
                self._device,
                guardrail=ServerGuardrail() if self._asks_server else self._options.guardrail,
                attention=self._options.attention,
                memory=self._options.memory,
                report=lambda text, fraction: report(Loading(text, fraction)),
            )
        except CheckpointError as error:
            raise CannotLoad(str(error)) from error
        sketch = decoder or self._latent_rgb(next(iter(pipelines.values())))
        sampling = NVIDIA if self._options.nvidia_sampling else EXACT
        self._pipelines = {
            sampler: dataclasses.replace(pipeline, sampling=sampling, sketch=sketch)
            for sampler, pipeline in pipelines.items()
        }
        # Of several checkpoints, the first one's are reported.
        pipeline = next(iter(self._pipelines.values()))
        choice = pipeline.attention
        if choice.trials:
            trials = [str(trial) for trial in choice.trials]
            _log.info("The attention backend is chosen", backend=choice.name, trials=trials)
        kernels, placement = pipeline.kernels, pipeline.placement
        _log.info("The memory plan is chosen", plan=placement.plan.value, reason=placement.reason)
        for warning in (*choice.warnings, kernels.problem, placement.warning):
            if warning is not None:
                _log.warning(warning)
        if self._options.num_ranks > 1:
            report(Loading("Loading the transformer on the other devices", 1.0))
            folder = Path(tempfile.mkdtemp(dir=self._options.scratch))
            start_ranks(pipeline, stores[0], self._options.num_ranks, folder, end_with)
        device = torch.cuda.get_device_name() if self._device == "cuda" else "CPU"
        num_ranks = self._options.num_ranks
        return Ready(
            checkpoint_digest=digest_of(stores),
            device=device if num_ranks == 1 else f"{num_ranks} x {device}",
            attention=choice.name,
            memory=self.memory,
            kernels=kernels.name,
            kernels_problem=kernels.problem,
            versions=versions(),
        )

    def _makes_previews(self, choice: PreviewChoice) -> bool:
        # An endpoint would be asked about each preview as often as about the video.
        return self._options.preview == choice and not self._asks_server

    def _preview_decoder(self, checkpoint: Path) -> "Sketch | None":
        if not self._makes_previews("taehv"):
            return None
        from pipeline.taehv import TaehvDecoder

        return TaehvDecoder.beside(checkpoint, self._device)

    def _latent_rgb(self, pipeline: "VideoPipeline") -> "Sketch | None":
        if not self._makes_previews("rgb"):
            return None
        from pipeline.preview import fit_latent_rgb

        with pipeline.placement.on_device(pipeline.vae):
            return fit_latent_rgb(pipeline.vae)

    def _check_ranks(self, stores: Sequence[WeightStore]) -> None:
        num_ranks = self._options.num_ranks
        if num_ranks > 1 and len(stores) > 1:
            raise CannotLoad(
                f"{num_ranks} devices work on one video with one checkpoint; {len(stores)} are "
                "named."
            )
        if num_ranks > 1:
            check_ranks(stores[0], num_ranks)

    def run(
        self, order: WorkOrder, send: Send, cancelled: Callable[[], bool], judge: Judge
    ) -> Done:
        """Make the order's video and send it.

        Raises:
            CannotLoad: no checkpoint here is trained for the sampler that the order asks for.
        """
        pipeline = self._pipelines.get(order.spec.sampler)
        if pipeline is None:
            raise CannotLoad(
                f"No checkpoint is loaded that is sampled by {order.spec.sampler.value}."
            )
        if self._asks_server:
            pipeline = dataclasses.replace(pipeline, guardrail=ServerGuardrail(judge))
        clock = _StageClock(order.job_id, send)
        watcher = Watcher(clock.tell, cancelled, lambda data: send(Preview(data)))
        with tempfile.TemporaryDirectory(dir=self._options.scratch) as folder:
            video = pipeline.generate(
                order.spec,
                [picture for pictures in order.media.values() for picture in pictures],
                Path(folder) / f"video{order.spec.container.suffix}",
                watcher,
            )
            _send_video(video, send, watcher.check)
        return Done(order.spec.tier, clock.stop())


def end_with(sentence: str) -> None:
    """End this process at once: what it waits for from another rank will not come."""
    _log.error(sentence)
    os._exit(RANK_EXIT_CODE)


class _StageClock:
    """Passes progress on, and measures the stages by it: those of the try that made the video."""

    def __init__(self, job_id: str, send: Send) -> None:
        self._job_id = job_id
        self._send = send
        self._stage: Stage | None = None
        self._started = time.monotonic()
        self._seconds: dict[str, float] = {}

    def tell(self, progress: Progress) -> None:
        match progress:
            case StageStarted(stage):
                self._finish_stage()
                self._stage = stage
            case Restarted(message):
                _log.warning(message, job_id=self._job_id)
                self._stage = None
                self._seconds.clear()
        self._send(progress)

    def stop(self) -> dict[str, float]:
        """The seconds that each stage took, the last one until now."""
        self._finish_stage()
        return dict(self._seconds)

    def _finish_stage(self) -> None:
        now = time.monotonic()
        if self._stage is not None:
            # A long video has a stage once for each chunk.
            before = self._seconds.get(self._stage.value, 0.0)
            self._seconds[self._stage.value] = round(before + now - self._started, 3)
        self._started = now


def _send_video(video: "EncodedVideo", send: Send, check: Callable[[], None]) -> None:
    """Send a finished video, and its thumbnail."""
    with video.path.open("rb") as file:
        size, sha256 = _send_bytes(file, send, check)
    send(
        Artifact(
            kind="video",
            name=video.path.name,
            content_type=video.content_type,
            size=size,
            sha256=sha256,
            width=video.width,
            height=video.height,
            frames=video.num_frames,
        )
    )
    size, sha256 = _send_bytes(io.BytesIO(video.thumbnail.data), send, check)
    send(
        Artifact(
            kind="thumbnail",
            name=thumbnail.NAME,
            content_type=thumbnail.CONTENT_TYPE,
            size=size,
            sha256=sha256,
            width=video.thumbnail.width,
            height=video.thumbnail.height,
            frames=1,
        )
    )


def _send_bytes(file: BinaryIO, send: Send, check: Callable[[], None]) -> tuple[int, str]:
    """Send a file in chunks; its size and SHA-256, to describe it by."""
    size, digest = 0, hashlib.sha256()
    while data := file.read(MAX_CHUNK_BYTES):
        check()
        send(Chunk(data))
        size += len(data)
        digest.update(data)
    return size, digest.hexdigest()
