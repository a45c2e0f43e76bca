"""Everything worth knowing about one GPU in one command of under ten minutes.

    python -m benchmarks.gpu [--out FILE] [--only SECTION …] [--sink null] [--tiny]

Correctness first, then figures. Needs the source tree, torch and diffusers alone: no ffmpeg, no
checkpoint (full-size random weights give true timings) and no network. Every section is printed and
saved as it ends, and one that fails does not cost the others. `--tiny` rehearses all of it on any
machine.
"""

import argparse
import hashlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks import correctness, full_size, ratios
from benchmarks.full_size import FULL, TINY, Scale, StepInputs
from benchmarks.machine import describe
from benchmarks.memory import PlanBenchmark
from benchmarks.timing import Report, peak, reset_peak, synchronize, timed
from pipeline.denoise import denoise
from pipeline.guardrail import Frame
from pipeline.libraries import cudnn_versions
from pipeline.network.attention import BACKENDS, Choice, choose_attention
from pipeline.network.transformer import CosmosTransformer
from pipeline.spec import Container, Pixels, Quality, VideoSpec
from pipeline.text import MAX_TOKENS
from pipeline.vae import decode, encode_first_frame, lay_channels_last


class GpuBenchmark:
    """The sections, in the order they run; later ones use what earlier ones found."""

    def __init__(self, scale: Scale, device: torch.device, report: Report, sink: str) -> None:
        self.scale = scale
        self.sink = sink
        self.device = device
        self.report = report
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        # On a CPU only the tracing is rehearsed: compiling the VAE there takes minutes.
        self.compiler = "inductor" if device.type == "cuda" else "eager"
        self._attention: Choice | None = None

    def sections(self) -> dict[str, Callable[[], dict[str, Any]]]:
        return {
            "machine": self.machine,
            "kernels": self.kernels,
            "precision": self.precision,
            "ceilings": self.ceilings,
            "attention": self.attention,
            "step": self.step,
            "diffusers": self.diffusers,
            "vae": self.vae,
            "job": self.job,
            "memory": self.memory,
            "ratios": self.ratios,
        }

    # -- correctness ------------------------------------------------------------------------

    def machine(self) -> dict[str, Any]:
        built, found = cudnn_versions()
        return {
            **describe(),
            "cudnn": {"built": built, "found": found},
            "clocks": _clocks(),
            "scale": {"frames": self.scale.num_frames, "tokens": self.scale.tokens},
        }

    def kernels(self) -> dict[str, Any]:
        """The fused kernels at the real width against float64, beside the plain form."""
        return correctness.kernels(self.scale, self.device)

    def precision(self) -> dict[str, Any]:
        """Our error over that of NVIDIA's recipe in bfloat16, each against its own float32."""
        return correctness.precision(self.scale, self.device)

    # -- figures ----------------------------------------------------------------------------

    def ceilings(self) -> dict[str, Any]:
        """What this GPU reaches: a large matrix product, the real ones, and a copy."""
        width, tokens, size = self.scale.config.width, self.scale.tokens, self.scale.matrix
        shapes = {
            f"square {size}": (size, size, size),
            "queries, keys, values": (tokens, width, 3 * width),
            "square of the width": (tokens, width, width),
            "feed-forward in": (tokens, width, 4 * width),
            "feed-forward out": (tokens, 4 * width, width),
        }
        result: dict[str, Any] = {}
        for name, (rows, inner, columns) in shapes.items():
            left = torch.randn(rows, inner, device=self.device, dtype=self.dtype)
            right = torch.randn(columns, inner, device=self.device, dtype=self.dtype)
            time = timed(lambda a=left, b=right: a @ b.T, self.device, runs=10)  # type: ignore[misc]  # defaults bind the loop's values
            result[name] = {**time, "tflops": 2e-12 * rows * inner * columns / time["median_s"]}
        source = torch.randn(tokens, width, device=self.device)
        time = timed(source.clone, self.device, runs=10)
        result["copy"] = {**time, "gb_s": 2e-9 * source.nbytes / time["median_s"]}
        return result

    def attention(self) -> dict[str, Any]:
        """Every backend at the real shape, by the choice that the server makes at its start."""
        choice = self._choice()
        config, tokens = self.scale.config, self.scale.tokens
        shape = (1, tokens, 3, config.num_attention_heads, config.attention_head_dim)
        packed = torch.randn(shape, device=self.device, dtype=self.dtype)
        time = timed(lambda: choice.attend(*packed.unbind(2)), self.device, runs=self.scale.runs)
        operations = 4 * tokens**2 * config.width
        return {
            "chosen": choice.name,
            "trials": [str(trial) for trial in choice.trials],
            "warnings": list(choice.warnings),
            **time,
            "tflops": operations * 1e-12 / time["median_s"],
        }

    def step(self) -> dict[str, Any]:
        """One guided step of this network: shared part and two branches."""
        result: dict[str, Any] = {"fused": self._timed_step(self._network())}
        with (
            patch("pipeline.network.kernels.residual.can_fuse", return_value=False),
            patch("pipeline.network.kernels.heads.can_fuse", return_value=False),
        ):
            result["plain"] = self._timed_step(self._network())
        narrow = self._network(residual_dtype=torch.bfloat16)
        result["bfloat16 residual"] = self._timed_step(narrow)
        del narrow
        compiled = self._network()
        compiled.compile_blocks(self.compiler)
        result["compiled"] = self._timed_step(compiled)
        return result

    def _timed_step(self, network: CosmosTransformer) -> dict[str, Any]:
        inputs = StepInputs.random(self.scale.latent_frames, self.scale.latent_size, self.device)
        rotary = network.rotary_tables(*inputs.latents.shape[2:])
        texts = [network.text_keys_values(self._text(seed)) for seed in (1, 2)]

        def one_step() -> None:
            shared = network.forward_shared(inputs.latents, inputs.given, inputs.times, rotary)
            for text in texts:
                network.forward_branch(shared, text)

        reset_peak(self.device)
        return {**timed(one_step, self.device, runs=self.scale.runs), **peak(self.device)}

    def diffusers(self) -> dict[str, Any]:
        """One guided step of diffusers: two whole evaluations, eager and compiled by block."""
        model = full_size.diffusers_transformer(self.scale, self._network(), self.dtype)
        inputs = StepInputs.random(self.scale.latent_frames, self.scale.latent_size, self.device)
        features = self.scale.config.crossattn_proj_in_channels
        text = torch.randn(1, MAX_TOKENS, features, device=self.device, dtype=self.dtype)

        def one_step() -> None:
            for _ in range(2):
                full_size.diffusers_forward(model, inputs, text)

        reset_peak(self.device)
        eager = {**timed(one_step, self.device, runs=self.scale.runs), **peak(self.device)}
        for block in model.transformer_blocks:
            block.compile(fullgraph=True, backend=self.compiler)
        return {"eager": eager, "compiled": timed(one_step, self.device, runs=self.scale.runs)}

    def vae(self) -> dict[str, Any]:
        """Encoding one frame and decoding all, ours and diffusers'."""
        vae = full_size.random_vae(self.scale, self.device, self.dtype)
        pixels = Pixels(self.scale.width, self.scale.height, bytes(self._pixel_bytes()))
        latents = self._random_latents()
        size = (1, 3, self.scale.num_frames, self.scale.height, self.scale.width)
        video = torch.zeros(size, device=self.device, dtype=self.dtype)

        def measure(work: Callable[[], Any]) -> dict[str, Any]:
            reset_peak(self.device)
            return {**timed(work, self.device, runs=self.scale.runs), **peak(self.device)}

        result = {
            "encode, one frame": measure(lambda: encode_first_frame(vae, pixels)),
            "encode, diffusers": measure(lambda: vae.encode(video)),
            "decode, diffusers": measure(lambda: vae.decode(latents.to(vae.dtype))),
            "decode, streamed": measure(lambda: list(decode(vae, latents))),
        }
        lay_channels_last(vae)
        result["decode, channels last"] = measure(lambda: list(decode(vae, latents)))
        vae.decoder.compile(backend=self.compiler)
        result["decode, channels last, compiled"] = measure(lambda: list(decode(vae, latents)))
        return result

    def job(self) -> dict[str, Any]:
        """A whole video but for the prompt: every step, then decoding into the sink."""
        network = self._network()
        vae = full_size.random_vae(self.scale, self.device, self.dtype)
        lay_channels_last(vae)
        pixels = Pixels(self.scale.width, self.scale.height, bytes(self._pixel_bytes()))
        spec = VideoSpec(
            prompt="",
            seed=0,
            num_frames=self.scale.num_frames,
            num_inference_steps=self.scale.steps,
        )
        prompts = self._text(1), self._text(2)
        before = _clocks()
        reset_peak(self.device)
        watch = _Stopwatch(self.device)
        given = encode_first_frame(vae, pixels)
        watch.lap("encode_s")
        latents = denoise(network, full_size.SCHEDULER, given, *prompts, spec, lambda _step: None)
        watch.lap("denoise_s")
        made = self._sink(decode(vae, latents))
        watch.lap("decode_s")
        return {
            **watch.laps,
            "all_s": sum(watch.laps.values()),
            "steps": self.scale.steps,
            "finite": bool(latents.isfinite().all()),
            **made,
            "clocks_before": before,
            "clocks_after": _clocks(),
            **peak(self.device),
        }

    def _sink(self, frames: Iterator[Frame]) -> dict[str, Any]:
        """Take the frames: count and hash them, or encode them as a default request does."""
        if self.sink == "null":
            digest, count = hashlib.sha256(), 0
            for frame in frames:
                digest.update(frame.tobytes())
                count += 1
            return {"sink": "null", "frames": count, "frames_sha256": digest.hexdigest()}
        # Imported here, because a machine without ffmpeg has no imageio_ffmpeg.
        from pipeline.encode import encode_video

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

    def memory(self) -> dict[str, Any]:
        """The whole model resident and offloaded, over a few steps."""
        attend = self._choice().attend
        return PlanBenchmark(self.scale, self.device, self.dtype, attend).measure()

    def ratios(self) -> dict[str, Any]:
        """Ours against diffusers, against the floor, and against the ceilings of this run."""
        return ratios.ratios(self.report, self.scale)

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


class _Stopwatch:
    """Laps of a device's work."""

    def __init__(self, device: torch.device) -> None:
        self.laps: dict[str, float] = {}
        self._device = device
        self._last = self._now()

    def lap(self, name: str) -> None:
        now = self._now()
        self.laps[name], self._last = now - self._last, now

    def _now(self) -> float:
        synchronize(self._device)
        return time.perf_counter()


def _clocks() -> str:
    """What nvidia-smi says of clocks, power and temperature; empty where there is none."""
    query = "clocks.sm,clocks.mem,power.draw,temperature.gpu,driver_version"
    try:
        run = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure this GPU.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    parser.add_argument("--only", action="append", metavar="SECTION", help="may be repeated")
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
    unknown = set(options.only or ()) - set(sections)
    if unknown:
        parser.error(f"{', '.join(unknown)}: the sections are {', '.join(sections)}.")
    print(f"backends known: {', '.join(BACKENDS)}; results go to {options.out}", flush=True)
    with torch.inference_mode():
        for name, measure in sections.items():
            if not options.only or name in options.only:
                report.section(name, measure)


if __name__ == "__main__":
    main()
