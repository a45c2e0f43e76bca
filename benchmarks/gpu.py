"""Everything worth knowing about one GPU, in three calls of under nine minutes each.

    python -m benchmarks.gpu --part 1 [--out FILE] [--sink null] [--tiny]

What decides most is in part 1. Without `--part` all sections run, one after the other, and `--only
SECTION` names single ones. Needs the source tree, torch, diffusers and transformers alone: no
ffmpeg, no checkpoint (full-size random weights give true timings) and no network. Every case is
printed and saved as it ends, in a file that keeps what earlier calls measured, and a section that
fails does not cost the others. `--tiny` rehearses all of it on any machine.
"""

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks import correctness, full_size, ratios
from benchmarks.ceilings import ceilings
from benchmarks.clocks import clocks, watched_clocks
from benchmarks.end_to_end import end_to_end
from benchmarks.full_size import FULL, TINY, Scale, StepInputs
from benchmarks.machine import describe
from benchmarks.memory import memory_plans
from benchmarks.timing import (
    Case,
    Report,
    Section,
    by_kernel,
    peak,
    reset_peak,
    synchronize,
    timed,
)
from pipeline.denoise import denoise
from pipeline.encode import encode_video
from pipeline.guardrail import Frame
from pipeline.libraries import cudnn_versions
from pipeline.network.attention import BACKENDS, Choice, choose_attention
from pipeline.network.kernels.device import allow_fused
from pipeline.network.kernels.proof import choose_kernels
from pipeline.network.transformer import CosmosTransformer
from pipeline.spec import Container, Pixels, Quality, VideoSpec
from pipeline.text import MAX_TOKENS
from pipeline.vae import decode, encode, to_video

Result = TypeVar("Result")

PARTS = {
    1: (
        *("machine", "kernels", "precision", "ceilings", "attention", "job"),
        *("ceilings after the job", "memory", "ratios"),
    ),
    2: ("machine", "ceilings", "attention", "step", "diffusers", "ratios"),
    3: ("machine", "end to end", "vae"),
}
"""The sections of each call: by prediction 400, 300 and 250 seconds on an H200."""


class GpuBenchmark:
    """The sections, in the order they run; later ones use what earlier ones found."""

    def __init__(self, scale: Scale, device: torch.device, report: Report, sink: str) -> None:
        self.scale = scale
        self.sink = sink
        self.device = device
        self.report = report
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._attention: Choice | None = None
        config = scale.config
        # As a worker does: where Triton cannot compile, the other sections are of the plain forms.
        self._kernels = choose_kernels(
            device,
            self.dtype,
            torch.float32,
            heads=config.num_attention_heads,
            head_dim=config.attention_head_dim,
        )

    @property
    def measured(self) -> str:
        """What a file's figures are of: those of two GPUs, or two sizes, are not to meet in one."""
        is_gpu = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if is_gpu else "CPU"
        return f"{self.scale.num_frames} frames, {self.scale.tokens} tokens on {name}"

    def sections(self) -> dict[str, Section]:
        return {
            "machine": self.machine,
            "kernels": self.kernels,
            "precision": self.precision,
            "ceilings": self.ceilings,
            "attention": self.attention,
            "job": self.job,
            "ceilings after the job": self.ceilings,
            "memory": self.memory,
            "step": self.step,
            "diffusers": self.diffusers,
            "end to end": self.end_to_end,
            "vae": self.vae,
            "ratios": self.ratios,
        }

    # -- correctness ------------------------------------------------------------------------

    def machine(self) -> Iterable[Case]:
        built, found = cudnn_versions()
        yield from describe().items()
        yield "cudnn", {"built": built, "found": found}
        yield "clocks", clocks()
        yield "measured", self.measured

    def kernels(self) -> Iterable[Case]:
        """The fused kernels at the real width against float64, beside the plain form."""
        yield from asdict(self._kernels).items()
        yield from correctness.kernels(self.scale, self.device).items()

    def precision(self) -> Iterable[Case]:
        """Our error over that of NVIDIA's recipe in bfloat16, each against its own float32."""
        return correctness.precision(self.scale, self.device).items()

    def end_to_end(self) -> Iterable[Case]:
        """A stand-in through loader, text model and pipeline, beside the same on a CPU."""
        return end_to_end(self.device)

    # -- figures ----------------------------------------------------------------------------

    def ceilings(self) -> Iterable[Case]:
        """What this GPU reaches under load."""
        return ceilings(self.scale, self.device, self.dtype, self._choice().attend)

    def attention(self) -> Iterable[Case]:
        """Every backend at the real shape, by the choice that the server makes at its start."""
        choice = self._choice()
        yield "chosen", choice.name
        yield "trials", [str(trial) for trial in choice.trials]
        yield "warnings", list(choice.warnings)

    def step(self) -> Iterable[Case]:
        """One guided step of this network: shared part and two branches."""
        yield self._kernels.name, self._timed_step(self._network())
        yield "by kernel", by_kernel(self._one_step(self._network()), self.device)
        if self._kernels.name == "fused":
            allow_fused(False)
            try:
                plain = self._timed_step(self._network())
            finally:
                allow_fused(True)
            yield "plain", plain
        narrow = self._timed_step(self._network(residual_dtype=torch.bfloat16))
        yield "bfloat16 residual", narrow

    def _timed_step(self, network: CosmosTransformer) -> dict[str, Any]:
        reset_peak(self.device)
        step = self._one_step(network)
        return {**timed(step, self.device, runs=self.scale.runs), **peak(self.device)}

    def _one_step(self, network: CosmosTransformer) -> Callable[[], None]:
        inputs = StepInputs.random(self.scale.latent_frames, self.scale.latent_size, self.device)
        rotary = network.rotary_tables(*inputs.latents.shape[2:])
        texts = [network.text_keys_values(self._text(seed)) for seed in (1, 2)]

        def one_step() -> None:
            shared = network.forward_shared(inputs.latents, inputs.given, inputs.times, rotary)
            for text in texts:
                network.forward_branch(shared, text)

        return one_step

    def diffusers(self) -> Iterable[Case]:
        """One guided step of diffusers: two whole evaluations, eager and compiled by block."""
        model = full_size.diffusers_transformer(self.scale, self._network(), self.dtype)
        inputs = StepInputs.random(self.scale.latent_frames, self.scale.latent_size, self.device)
        features = self.scale.config.crossattn_proj_in_channels
        text = torch.randn(1, MAX_TOKENS, features, device=self.device, dtype=self.dtype)

        def one_step() -> None:
            for _ in range(2):
                full_size.diffusers_forward(model, inputs, text)

        reset_peak(self.device)
        eager = timed(one_step, self.device, runs=self.scale.runs)
        yield "eager", {**eager, **peak(self.device)}
        # On a CPU only the tracing is rehearsed: compiling there takes minutes.
        backend = "inductor" if self.device.type == "cuda" else "eager"
        for block in model.transformer_blocks:
            block.compile(fullgraph=True, backend=backend)
        yield "compiled", timed(one_step, self.device, runs=self.scale.runs)

    def vae(self) -> Iterable[Case]:
        """Encoding one frame and decoding all, ours and diffusers'."""
        vae = full_size.random_vae(self.scale, self.device, self.dtype)
        pixels = Pixels(self.scale.width, self.scale.height, bytes(self._pixel_bytes()))
        latents = self._random_latents()
        size = (1, 3, self.scale.num_frames, self.scale.height, self.scale.width)
        video = torch.zeros(size, device=self.device, dtype=self.dtype)

        def measure(work: Callable[[], Any]) -> dict[str, Any]:
            reset_peak(self.device)
            return {**timed(work, self.device, runs=self.scale.runs), **peak(self.device)}

        yield "encode, one frame", measure(lambda: encode(vae, to_video([pixels])))
        yield "decode, streamed", measure(lambda: list(decode(vae, latents)))
        yield "by kernel", by_kernel(lambda: list(decode(vae, latents)), self.device)
        vae = full_size.random_vae(self.scale, self.device, self.dtype)
        yield "decode, diffusers", measure(lambda: vae.decode(latents.to(vae.dtype)))
        yield "encode, diffusers", measure(lambda: vae.encode(video))

    def job(self) -> Iterable[Case]:
        """A whole video but for the prompt: every step, then decoding into the sink."""
        network = self._network()
        vae = full_size.random_vae(self.scale, self.device, self.dtype)
        pixels = Pixels(self.scale.width, self.scale.height, bytes(self._pixel_bytes()))
        spec = VideoSpec(
            prompt="",
            seed=0,
            num_frames=self.scale.num_frames,
            num_inference_steps=self.scale.steps,
        )
        prompts = self._text(1), self._text(2)
        yield "steps", self.scale.steps
        reset_peak(self.device)
        with watched_clocks() as clock_lines:
            given, encode_s = self._measured(lambda: encode(vae, to_video([pixels])))
            yield "encode_s", encode_s
            latents, denoise_s = self._measured(
                lambda: denoise(
                    network, full_size.SCHEDULER, given, *prompts, spec, lambda *_: None
                )
            )
            yield "denoise_s", denoise_s
            yield "finite", bool(latents.isfinite().all())
            made, decode_s = self._measured(lambda: self._sink(decode(vae, latents)))
            yield "decode_s", decode_s
        yield "all_s", encode_s + denoise_s + decode_s
        yield from {**made, **peak(self.device)}.items()
        yield "clocks", list(clock_lines)

    def _measured(self, work: Callable[[], Result]) -> tuple[Result, float]:
        """What it returns, and its seconds until the device is done."""
        synchronize(self.device)
        started = time.perf_counter()
        result = work()
        synchronize(self.device)
        return result, time.perf_counter() - started

    def _sink(self, frames: Iterator[Frame]) -> dict[str, Any]:
        """Take the frames: count and hash them, or encode them as a default request does."""
        if self.sink == "null":
            digest, count = hashlib.sha256(), 0
            for frame in frames:
                digest.update(frame.tobytes())
                count += 1
            return {"sink": "null", "frames": count, "frames_sha256": digest.hexdigest()}
        with tempfile.TemporaryDirectory() as folder:
            video = encode_video(
                frames,
                Container.X264,
                Quality.HIGH,
                width=self.scale.width,
                height=self.scale.height,
                num_frames=self.scale.num_frames,
                out=Path(folder) / "video.mp4",
                check=lambda: None,
            )
            size = video.path.stat().st_size
        return {"sink": "x264", "frames": video.num_frames, "file_bytes": size}

    def memory(self) -> Iterable[Case]:
        """The whole model from its files, by every plan."""
        return memory_plans(self.scale, self.device)

    def ratios(self) -> Iterable[Case]:
        """Ours against diffusers, against the floor, and against the ceilings."""
        return ratios.ratios(self.report, self.scale).items()

    # -- what the sections share ------------------------------------------------------------

    def _network(self, **choices: Any) -> CosmosTransformer:
        network = full_size.random_transformer(self.scale, self.device, self.dtype, **choices)
        network.attend = self._choice().attend
        return network

    def _choice(self) -> Choice:
        if self._attention is None:
            self._attention = choose_attention(
                self.device,
                self.dtype,
                tokens=self.scale.tokens,
                heads=self.scale.config.num_attention_heads,
                head_dim=self.scale.config.attention_head_dim,
            )
        return self._attention

    def _text(self, seed: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(seed)
        shape = (MAX_TOKENS, self.scale.config.text_embed_dim)
        return torch.randn(shape, device=self.device, generator=generator)

    def _random_latents(self) -> Tensor:
        shape = (1, 16, self.scale.latent_frames, *self.scale.latent_size)
        generator = torch.Generator(self.device).manual_seed(2)
        return torch.randn(shape, device=self.device, generator=generator)

    def _pixel_bytes(self) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        size = self.scale.width * self.scale.height * 3
        return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure this GPU.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--part", type=int, choices=PARTS, help="a third, of under nine minutes")
    choice.add_argument("--only", action="append", metavar="SECTION", help="may be repeated")
    parser.add_argument("--tiny", action="store_true", help="rehearse on any machine")
    parser.add_argument(
        "--sink",
        choices=("null", "x264"),
        default="x264" if find_spec("imageio_ffmpeg") else "null",
        help="where a job's frames go: encoded, or counted and hashed where there is no ffmpeg",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    report = Report(options.out)
    scale, device = TINY if options.tiny else FULL, torch.device(options.device)
    benchmark = GpuBenchmark(scale, device, report, options.sink)
    sections = benchmark.sections()
    chosen = PARTS[options.part] if options.part else options.only or tuple(sections)
    unknown = set(chosen) - set(sections)
    if unknown:
        parser.error(f"{', '.join(unknown)}: the sections are {', '.join(sections)}.")
    measured = report.get("machine", "measured")
    if measured not in (None, benchmark.measured):
        parser.error(f"{options.out} is of {measured}, not {benchmark.measured}: name another.")
    print(f"backends known: {', '.join(BACKENDS)}; results go to {options.out}", flush=True)
    with torch.inference_mode():
        for name, measure in sections.items():
            if name in chosen:
                report.section(name, measure)
    failed = [name for name in chosen if report.get(name, "failed")]
    sys.exit(f"These sections failed: {', '.join(failed)}." if failed else 0)


if __name__ == "__main__":
    main()
