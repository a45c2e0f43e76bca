"""Seconds and peak memory of each stage, for any checkpoint, device and job.

    python -m benchmarks.stages --weights DIR [--device cuda:0] [--frames 93] [--out FILE]

Prints a table of medians and writes every run as JSON. The first run of a process warms up and is
listed apart. Memory of a CPU run is the resident set of this process, ffmpeg's its own; on a GPU
it is what torch allocated there.
"""

import json
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import psutil
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from pipeline.generate import VideoPipeline
from pipeline.image import prepare
from pipeline.load import load_pipeline
from pipeline.memory_plan import MemoryPlan
from pipeline.progress import Progress, StageStarted, Watcher
from pipeline.spec import Container, Pixels, Quality, VideoSpec
from weights.store import WeightStore

_MIB = 2**20
_SAMPLE = Path(__file__).parent.parent / "docs" / "sample" / "launch.jpg"
_PROMPT = "A rocket lifts off from its launch pad in a cloud of fire and smoke."


@dataclass
class StageMeter:
    """Times each stage, from its start to the start of the next, and notes its peak memory."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)
    _stage: str | None = None
    _started: float = 0.0

    def tell(self, progress: Progress) -> None:
        if isinstance(progress, StageStarted):
            self.begin(progress.stage.value)

    def begin(self, stage: str | None) -> None:
        """End the stage that runs and begin another, or none."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._stage is not None:
            self.seconds[self._stage] = now - self._started
            self.peak_mib[self._stage] = self._peak_mib()
        self._reset_peak()
        self._stage, self._started = stage, time.perf_counter()

    def _peak_mib(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / _MIB
        return vm_hwm_mib("self")

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")


class ChildWatch:
    """Notes the peak memory of the children of this process, by VmHWM, while a context lasts."""

    def __init__(self) -> None:
        self.peak_mib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "ChildWatch":
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for child in psutil.Process().children():
                self.peak_mib = max(self.peak_mib, vm_hwm_mib(str(child.pid)))


def vm_hwm_mib(process: str) -> float:
    """The kernel's record of a process's peak resident memory; 0 once the process is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return 0.0
    values = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(values[0]) / 1024 if values else 0.0


def measure(
    pipeline: VideoPipeline, spec: VideoSpec, pixels: Pixels, folder: Path
) -> dict[str, Any]:
    """One video: seconds and peak MiB by stage, ffmpeg's peak, and the file's size."""
    meter = StageMeter(pipeline.placement.device)
    with ChildWatch() as children:
        watcher = Watcher(meter.tell, lambda: False)
        video = pipeline.generate(spec, [pixels], folder / "video", watcher)
        meter.begin(None)
    return {
        "seconds": meter.seconds,
        "peak_mib": meter.peak_mib,
        "ffmpeg_peak_mib": children.peak_mib,
        "file_bytes": video.path.stat().st_size,
    }


def print_table(runs: list[dict[str, Any]]) -> None:
    """Medians over the runs after the first, with the spread."""
    warm = runs[1:] or runs
    table = Table("stage", "seconds, median", "least", "most", "peak MiB", "first run, s")
    for stage in runs[0]["seconds"]:
        seconds = [run["seconds"][stage] for run in warm]
        peak = max(run["peak_mib"][stage] for run in warm)
        first = runs[0]["seconds"][stage]
        figures = (median(seconds), min(seconds), max(seconds))
        table.add_row(stage, *(f"{s:.2f}" for s in figures), f"{peak:,.0f}", f"{first:.2f}")
    totals = [sum(run["seconds"].values()) for run in warm]
    figures = (median(totals), min(totals), max(totals))
    table.add_row("all", *(f"{s:.2f}" for s in figures), "", "")
    Console().print(table)
    ffmpeg = max(run["ffmpeg_peak_mib"] for run in runs)
    print(f"ffmpeg's own peak: {ffmpeg:,.0f} MiB. {len(warm)} warm runs.")


def main(
    weights: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    device: Annotated[str, typer.Option(help="As torch names it.")] = "cpu",
    image: Annotated[Path, typer.Option(help="The first frame.")] = _SAMPLE,
    prompt: Annotated[str, typer.Option()] = _PROMPT,
    frames: Annotated[int, typer.Option()] = 25,
    steps: Annotated[int, typer.Option()] = 35,
    guidance: Annotated[float, typer.Option()] = 7.0,
    output_type: Annotated[Container, typer.Option()] = Container.X264,
    quality: Annotated[Quality, typer.Option()] = Quality.HIGH,
    runs: Annotated[int, typer.Option(help="The first one warms up.")] = 3,
    guardrail: Annotated[str, typer.Option(help="required or off.")] = "required",
    memory: Annotated[
        MemoryPlan, typer.Option(help="Where the model waits.")
    ] = MemoryPlan.RESIDENT,
    out: Annotated[Path | None, typer.Option(help="Where the JSON goes.")] = None,
) -> None:
    """Measure every stage of one job."""
    store = WeightStore(weights)
    meter = StageMeter(torch.device(device))
    meter.begin("load")
    pipeline = load_pipeline(
        store,
        device,
        guardrail="off" if guardrail == "off" else "required",
        # Not `auto`: a plan that changes within a run would be measured as neither.
        memory=memory.value,
    )
    meter.begin("prepare")
    pixels = prepare(image.read_bytes(), store.profile.width, store.profile.height)
    meter.begin(None)
    spec = VideoSpec(
        prompt=prompt,
        seed=0,
        num_frames=frames,
        num_inference_steps=steps,
        guidance_scale=guidance,
        container=output_type,
        quality=quality,
    )
    result: dict[str, Any] = {
        **describe(),
        "checkpoint": {"digest": store.digest, "size": [pixels.width, pixels.height]},
        "device": device,
        "memory": memory.value,
        "dtype": str(pipeline.transformer.dtype).removeprefix("torch."),
        "job": spec.to_json(),
        "once": {"seconds": meter.seconds, "peak_mib": meter.peak_mib},
        "runs": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            # The cache of prompts would hide the text stage of every run but the first.
            pipeline.text.forget()
            result["runs"].append(measure(pipeline, spec, pixels, Path(folder)))
            if out is not None:
                out.write_text(json.dumps(result, indent=2) + "\n")
    print_table(result["runs"])
    once = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in meter.seconds.items())
    print(f"Once: {once}. Commit {result['commit']}, load {result['machine']['load_average']:.1f}.")


if __name__ == "__main__":
    typer.run(main)
