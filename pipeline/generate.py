"""One video, from a spec and prepared pictures to a file: the stages in the order they run."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from pipeline.denoise import EXACT, Sampling, denoise
from pipeline.encode import EncodedVideo, encode_video
from pipeline.guardrail import Frame, Guardrail, judged
from pipeline.long_video import Chunk, chunks_of
from pipeline.memory import Placement, RanOutOfMemory, run_or_free
from pipeline.memory_plan import MemoryPlan
from pipeline.network.attention import Choice
from pipeline.network.kernels.proof import KernelChoice
from pipeline.network.transformer import CosmosTransformer
from pipeline.preview import OnClean, Sketch, previews
from pipeline.progress import Note, Restarted, Stage, StageStarted, StepDone, Watcher
from pipeline.spec import (
    DEFAULT_NEGATIVE_PROMPT,
    Pixels,
    Sampler,
    VideoSpec,
    latent_frames,
    num_pictures,
)
from pipeline.text import MAX_TOKENS, TextEncoder
from pipeline.timing import Estimator, StepClock
from pipeline.vae import (
    LATENT_CHANNELS,
    PIXELS_PER_CELL,
    decode_video,
    encode,
    to_frames,
    to_video,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPipeline:
    """A loaded checkpoint, ready to make one video of `width` x `height` pixels at a time.

    `max_frames` are made at once; a longer video is made of chunks. `sampler` is the one that the
    checkpoint is trained for. Without a `sketch` there are no previews.
    """

    width: int
    height: int
    max_frames: int
    sampler: Sampler
    text: TextEncoder
    transformer: CosmosTransformer
    vae: AutoencoderKLWan
    placement: Placement
    scheduler_config: Mapping[str, Any]
    guardrail: Guardrail
    estimator: Estimator
    attention: Choice
    kernels: KernelChoice
    sampling: Sampling = EXACT
    sketch: Sketch | None = None

    def generate(
        self, spec: VideoSpec, pictures: Sequence[Pixels], out: Path, watcher: Watcher
    ) -> EncodedVideo:
        """Make the video that `spec` asks for and write it to `out`.

        Where the GPU runs out of memory, the model takes as little of it as it can, if it may, for
        this pipeline's later videos too, and the video is made again.

        Args:
            pictures: what the video starts from, as many as `num_pictures` says, each of
                `width` x `height` pixels.

        Raises:
            ValueError: there are more or fewer pictures, or one has another size, or the spec asks
                for the sampler of another checkpoint.
            InputError: the prompt or the spec cannot be used, or the guardrail refused something.
            Cancelled: the watcher asked to stop; nothing is left behind.
            OutOfMemory: there is too little memory for this video; what was made of it is freed.
            EncodingFailed: ffmpeg failed.
        """
        self._check(spec, pictures)
        device = self.placement.device

        def make() -> EncodedVideo:
            return self._make(spec, pictures, out, watcher)

        try:
            return run_or_free(make, device, self.placement.plan, spec.num_frames)
        except RanOutOfMemory as error:
            if not (error.shortage.is_on_device and self.placement.can_fall):
                raise
            shortage = error.shortage
        watcher.check()
        run_or_free(self.placement.fall, device, MemoryPlan.STREAM, spec.num_frames)
        message = (
            f"The GPU ran out of memory ({shortage}), so from now on the model waits in host "
            "memory, and the video is begun again."
        )
        watcher.tell(Restarted(" ".join(filter(None, (message, self.placement.warning)))))
        return run_or_free(make, device, MemoryPlan.STREAM, spec.num_frames)

    def _check(self, spec: VideoSpec, pictures: Sequence[Pixels]) -> None:
        if spec.sampler is not self.sampler:
            raise ValueError(
                f"The video is to be sampled by {spec.sampler}; this checkpoint is trained for "
                f"{self.sampler}."
            )
        allowed = num_pictures(spec.conditioning)
        if len(pictures) not in allowed:
            wanted = " or ".join(map(str, allowed))
            raise ValueError(f"The video starts from {wanted} pictures; {len(pictures)} are given.")
        for picture in pictures:
            if (picture.width, picture.height) != (self.width, self.height):
                raise ValueError(
                    f"A picture has {picture.width}x{picture.height} pixels; the checkpoint makes "
                    f"videos of {self.width}x{self.height}."
                )

    def _make(
        self, spec: VideoSpec, pictures: Sequence[Pixels], out: Path, watcher: Watcher
    ) -> EncodedVideo:
        self.guardrail.check_prompt(spec.prompt)
        for picture in pictures:
            self.guardrail.check_image(picture)
        # The generator is closed before anything else happens: it has modules on the device.
        with closing(self._frames(spec, pictures, watcher)) as frames:
            first = next(frames)  # ffmpeg is not started before there is one
            return encode_video(
                judged(self.guardrail, chain([first], frames), spec.num_frames),
                container=spec.container,
                quality=spec.quality,
                width=self.width,
                height=self.height,
                num_frames=spec.num_frames,
                out=out,
                check=watcher.check,
            )

    def _frames(
        self, spec: VideoSpec, pictures: Sequence[Pixels], watcher: Watcher
    ) -> Generator[Frame]:
        """The frames of all chunks, as they are decoded; there is one chunk, or several."""
        prompts = self._encode_text(spec, watcher)
        before = to_video(pictures) if pictures else None
        with previews(self.sketch, self.guardrail, watcher.show) as preview:
            for chunk in chunks_of(spec, self.max_frames):
                given_latents = self._encode(chunk, before, watcher)
                latents = self._denoise(chunk, given_latents, prompts, preview, watcher)
                with self.placement.on_device(self.vae):
                    before = yield from self._decode(chunk, latents, spec.overlap or 0, watcher)

    def _encode_text(self, spec: VideoSpec, watcher: Watcher) -> tuple[Tensor, Tensor | None]:
        self._start(Stage.TEXT, chunks_of(spec, self.max_frames)[0], watcher)
        for name, text in (("prompt", spec.prompt), ("negative prompt", spec.negative_prompt)):
            num_tokens = self.text.num_tokens(text)
            if num_tokens > MAX_TOKENS and text != DEFAULT_NEGATIVE_PROMPT:
                watcher.tell(
                    Note(
                        f"The {name} takes {num_tokens} tokens; the model reads {MAX_TOKENS}, "
                        "so its end was cut off."
                    )
                )
        texts = (spec.prompt, spec.negative_prompt) if spec.guided else (spec.prompt,)
        with self.placement.on_device(*self.text.modules_for(texts)):
            prompt = self.text.encode(spec.prompt)
            negative_prompt = self.text.encode(spec.negative_prompt) if spec.guided else None
        return prompt, negative_prompt

    def _encode(self, chunk: Chunk, video: Tensor | None, watcher: Watcher) -> Tensor:
        """The latents that a chunk starts with, of [1, 3, frames, height, width] in -1..1."""
        if video is None:
            size = (self.height // PIXELS_PER_CELL, self.width // PIXELS_PER_CELL)
            return torch.empty(1, LATENT_CHANNELS, 0, *size)
        self._start(Stage.IMAGE, chunk, watcher)
        with self.placement.on_device(self.vae):
            return encode(self.vae, video)

    def _denoise(
        self,
        chunk: Chunk,
        given_latents: Tensor,
        prompts: tuple[Tensor, Tensor | None],
        preview: OnClean,
        watcher: Watcher,
    ) -> Tensor:
        self._start(Stage.DENOISE, chunk, watcher)
        with self.placement.on_device(self.transformer):
            clock = StepClock(self.placement.device)

            def on_step(steps_done: int, clean: Tensor | None) -> None:
                if clean is not None:
                    self._report_step(chunk, steps_done, clock.step(), watcher)
                    preview(clean)
                watcher.check()

            return denoise(
                self.transformer,
                self.scheduler_config,
                given_latents,
                *prompts,
                chunk.spec,
                on_step,
                self.sampling,
            )

    def _decode(
        self, chunk: Chunk, latents: Tensor, num_kept: int, watcher: Watcher
    ) -> Generator[Frame, None, Tensor | None]:
        """Exactly the frames that are shown of a chunk: others that are decoded are dropped.

        Returns:
            the last `num_kept` frames, not rounded, if another chunk goes on from them.
        """
        self._start(Stage.DECODE, chunk, watcher)
        started = time.monotonic()
        kept: Tensor | None = None
        shown = range(chunk.repeated, chunk.repeated + chunk.shown)
        index = 0
        for frames in decode_video(self.vae, latents):
            if not chunk.is_last:
                so_far = frames if kept is None else torch.cat([kept, frames], dim=2)
                kept = so_far[:, :, -num_kept:].clone()
            for frame in to_frames(frames):
                if index in shown:
                    yield frame
                index += 1
            if chunk.is_last and index >= shown.stop:
                break
        self.estimator.measured_decode(time.monotonic() - started, latent_frames(index))
        if chunk.is_last:
            watcher.tell(StageStarted(Stage.ENCODE))
        watcher.check()
        return kept

    def _start(self, stage: Stage, chunk: Chunk, watcher: Watcher) -> None:
        watcher.check()
        steps_done = chunk.spec.num_inference_steps if stage is Stage.DECODE else 0
        watcher.tell(StageStarted(stage, self._seconds_left(chunk, steps_done)))

    def _report_step(self, chunk: Chunk, steps_done: int, seconds: float, watcher: Watcher) -> None:
        spec = chunk.spec
        self.estimator.measured_step(seconds, spec.num_latent_frames, spec.num_branches)
        watcher.tell(
            StepDone(
                step=chunk.steps_before + steps_done,
                num_steps=chunk.num_steps,
                seconds_per_step=seconds,
                seconds_left=self._seconds_left(chunk, steps_done) or 0.0,
            )
        )

    def _seconds_left(self, chunk: Chunk, steps_done: int) -> float | None:
        """For the whole video, with so many steps of a chunk done."""
        return self.estimator.seconds_left(
            chunk.num_steps - chunk.steps_before - steps_done,
            chunk.spec.num_latent_frames,
            chunk.spec.num_branches,
            num_decodes=chunk.count - chunk.index,
        )
