"""One video, from a spec and prepared pictures to a file: the stages in the order they run."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from pipeline.denoise import EXACT, Sampling, denoise
from pipeline.encode import EncodedVideo, encode_video
from pipeline.guardrail import Frame, Guardrail
from pipeline.memory import Placement, RanOutOfMemory, run_or_free
from pipeline.memory_plan import MemoryPlan
from pipeline.network.attention import Choice
from pipeline.network.kernels.proof import KernelChoice
from pipeline.network.transformer import CosmosTransformer
from pipeline.progress import Note, Restarted, Stage, StageStarted, StepDone, Watcher
from pipeline.spec import DEFAULT_NEGATIVE_PROMPT, Pixels, VideoSpec, num_pictures
from pipeline.text import MAX_TOKENS, TextEncoder
from pipeline.timing import Estimator, StepClock
from pipeline.vae import LATENT_CHANNELS, PIXELS_PER_CELL, decode, encode, to_video


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPipeline:
    """A loaded checkpoint, ready to make one video of `width` x `height` pixels at a time."""

    width: int
    height: int
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
            ValueError: there are more or fewer pictures, or one has another size.
            InputError: the prompt or the spec cannot be used.
            Cancelled: the watcher asked to stop; nothing is left behind.
            OutOfMemory: there is too little memory for this video; what was made of it is freed.
            EncodingFailed: ffmpeg failed.
        """
        self._check_pictures(spec, pictures)
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

    def _check_pictures(self, spec: VideoSpec, pictures: Sequence[Pixels]) -> None:
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
        prompt, negative_prompt = self._encode_text(spec, watcher)
        given_latents = self._encode_pictures(spec, pictures, watcher)
        latents = self._denoise(spec, given_latents, prompt, negative_prompt, watcher)
        with self.placement.on_device(self.vae):
            frames = self._decode(spec, latents, watcher)
            return encode_video(
                (self.guardrail.check_frame(frame) for frame in frames),
                container=spec.container,
                quality=spec.quality,
                width=self.width,
                height=self.height,
                num_frames=spec.num_frames,
                out=out,
                check=watcher.check,
            )

    def _encode_text(self, spec: VideoSpec, watcher: Watcher) -> tuple[Tensor, Tensor | None]:
        self._start(Stage.TEXT, spec, watcher)
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

    def _encode_pictures(
        self, spec: VideoSpec, pictures: Sequence[Pixels], watcher: Watcher
    ) -> Tensor:
        if not pictures:
            size = (self.height // PIXELS_PER_CELL, self.width // PIXELS_PER_CELL)
            return torch.empty(1, LATENT_CHANNELS, 0, *size)
        self._start(Stage.IMAGE, spec, watcher)
        with self.placement.on_device(self.vae):
            return encode(self.vae, to_video(pictures))

    def _denoise(
        self,
        spec: VideoSpec,
        given_latents: Tensor,
        prompt: Tensor,
        negative_prompt: Tensor | None,
        watcher: Watcher,
    ) -> Tensor:
        self._start(Stage.DENOISE, spec, watcher)
        with self.placement.on_device(self.transformer):
            clock = StepClock(self.placement.device)

            def on_step(steps_done: int) -> None:
                if steps_done > 0:
                    self._report_step(spec, steps_done, clock.step(), watcher)
                watcher.check()

            return denoise(
                self.transformer,
                self.scheduler_config,
                given_latents,
                prompt,
                negative_prompt,
                spec,
                on_step,
                self.sampling,
            )

    def _decode(self, spec: VideoSpec, latents: Tensor, watcher: Watcher) -> Iterator[Frame]:
        """Exactly the frames asked for: what the last latent frame decodes to beyond is dropped."""
        self._start(Stage.DECODE, spec, watcher)
        started = time.monotonic()
        for index, frame in enumerate(decode(self.vae, latents)):
            if index < spec.num_frames:
                yield frame
        self.estimator.measured_decode(time.monotonic() - started, spec.num_latent_frames)
        watcher.tell(StageStarted(Stage.ENCODE))
        watcher.check()

    def _start(self, stage: Stage, spec: VideoSpec, watcher: Watcher) -> None:
        watcher.check()
        steps_left = 0 if stage is Stage.DECODE else spec.num_inference_steps
        watcher.tell(StageStarted(stage, self._seconds_left(spec, steps_left)))

    def _report_step(
        self, spec: VideoSpec, steps_done: int, seconds: float, watcher: Watcher
    ) -> None:
        self.estimator.measured_step(seconds, spec.num_latent_frames, spec.num_branches)
        watcher.tell(
            StepDone(
                step=steps_done,
                num_steps=spec.num_inference_steps,
                seconds_per_step=seconds,
                seconds_left=self._seconds_left(spec, spec.num_inference_steps - steps_done) or 0.0,
            )
        )

    def _seconds_left(self, spec: VideoSpec, steps_left: int) -> float | None:
        return self.estimator.seconds_left(steps_left, spec.num_latent_frames, spec.num_branches)
