"""Every memory plan: seconds and peak memory of each stage, and that the frames are the same.

What waiting in host memory costs does not depend on the number of steps, so a few are enough. The
model begins resident and ends streamed, as a worker's does that runs out of memory. The text model
is stood in for by as many bytes of square matrices: what is measured of it is the way to the
device.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks import full_size
from benchmarks.full_size import Scale
from benchmarks.timing import peak, reset_peak, synchronize
from pipeline.denoise import denoise
from pipeline.memory import HOST, Placement
from pipeline.memory_plan import MemoryPlan
from pipeline.network.attention import Attend
from pipeline.progress import Stage
from pipeline.spec import Pixels, VideoSpec
from pipeline.text import MAX_TOKENS
from pipeline.vae import decode, encode, lay_channels_last, to_video

_STEPS = 2


class PlanBenchmark:
    """One model of random weights, run by either plan."""

    def __init__(
        self, scale: Scale, device: torch.device, dtype: torch.dtype, attend: Attend
    ) -> None:
        self.scale = scale
        self.device = device
        self.text = full_size.RandomTextModel(scale, device, dtype)
        self.network = full_size.random_transformer(scale, device, dtype)
        self.network.attend = attend
        self.vae = full_size.random_vae(scale, device, dtype)
        lay_channels_last(self.vae)
        self.placement = self._placement(MemoryPlan.RESIDENT)
        self._stages: dict[str, dict[str, float]] = {}

    def measure(self) -> dict[str, Any]:
        """Resident, once to warm up and once more; then the text model waits; then all do."""
        self._video()
        resident, resident_frames = self._video()
        self.text.to(HOST)
        self.placement = self._placement(MemoryPlan.OFFLOAD)
        offload, offload_frames = self._video()
        synchronize(self.device)
        started = time.perf_counter()
        self.placement.fall()
        falling_s = time.perf_counter() - started
        stream, stream_frames = self._video()
        return {
            "steps": _STEPS,
            MemoryPlan.RESIDENT.value: resident,
            MemoryPlan.OFFLOAD.value: offload,
            MemoryPlan.STREAM.value: stream,
            "falling_s": falling_s,
            "pinned": self.placement.warning is None,
            "same frames": resident_frames == offload_frames == stream_frames,
        }

    def _placement(self, plan: MemoryPlan) -> Placement:
        others = (self.network, self.vae)
        return Placement(self.device, self.text, others, plan, may_fall=True)

    def _video(self) -> tuple[dict[str, dict[str, float]], str]:
        """The stages, in the pipeline's order and places, and a hash of all frames."""
        self._stages = {}
        prompts = self._prompts()
        with self._stage(Stage.IMAGE), self.placement.on_device(self.vae):
            given = encode(self.vae, to_video([self._picture()]))
        spec = VideoSpec(
            prompt="", seed=0, num_frames=self.scale.num_frames, num_inference_steps=_STEPS
        )
        with self._stage(Stage.DENOISE), self.placement.on_device(self.network):
            latents = denoise(
                self.network, full_size.SCHEDULER, given, *prompts, spec, lambda *_: None
            )
        digest = hashlib.sha256()
        with self._stage(Stage.DECODE), self.placement.on_device(self.vae):
            for frame in decode(self.vae, latents):
                digest.update(frame.tobytes())
        return self._stages, digest.hexdigest()

    @torch.inference_mode()
    def _prompts(self) -> tuple[Tensor, Tensor]:
        """Two prompts: through the text model, and random features of it through the projection."""
        width, features = self.scale.text_width, self.scale.config.crossattn_proj_in_channels
        generator = torch.Generator(self.device).manual_seed(1)
        modules = (self.text, self.network.crossattn_proj)
        prompts = []
        with self._stage(Stage.TEXT), self.placement.on_device(*modules):
            for _ in range(2):
                tokens, hidden = (
                    torch.randn(MAX_TOKENS, size, device=self.device, generator=generator)
                    for size in (width, features)
                )
                self.text(tokens.to(self.network.dtype))
                prompts.append(self.network.project_text(hidden))
        return prompts[0], prompts[1]

    def _picture(self) -> Pixels:
        width, height = self.scale.width, self.scale.height
        generator = torch.Generator().manual_seed(3)
        rgb = torch.randint(0, 256, (width * height * 3,), dtype=torch.uint8, generator=generator)
        return Pixels(width, height, rgb.numpy().tobytes())

    @contextmanager
    def _stage(self, stage: Stage) -> Iterator[None]:
        reset_peak(self.device)
        synchronize(self.device)
        started = time.perf_counter()
        yield
        synchronize(self.device)
        seconds = time.perf_counter() - started
        self._stages[stage.value] = {"seconds": seconds, **peak(self.device)}
