"""What previews cost: by count at full size, and side by side with videos that have none.

    python -m benchmarks.preview --weights .cache/stand-in [--device cuda] [--out FILE]
        [--steps 35] [--frames 49] [--pairs 5] [--png FILE]

Frames are made in turn without and with previews, from one photograph and seed. Beside seconds
there are those of all cores, which other programs disturb less. `--png` draws the last previews.
"""

import argparse
import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.full_size import FULL
from benchmarks.machine import describe
from benchmarks.ratios import step_operations
from benchmarks.timing import timed
from pipeline.generate import VideoPipeline
from pipeline.image import prepare
from pipeline.load import load_pipeline
from pipeline.preview import EVERY_S, LatentRgb, Sketch, animation, fit_latent_rgb
from pipeline.progress import Watcher
from pipeline.spec import Pixels, VideoSpec
from pipeline.taehv import TaehvDecoder
from weights.store import WeightStore

_PHOTOGRAPHS = Path(__file__).parent / "photographs"
_PHOTOGRAPH = _PHOTOGRAPHS / "chelsea.png"
_PROMPT = "The camera pans right."
_CPU = torch.device("cpu")


@torch.inference_mode()
def counted() -> dict[str, Any]:
    """Operations of one preview of a video of 93 frames at full size, beside those of its step."""
    step = sum(step_operations(FULL).values())
    with torch.device("meta"):
        latents = torch.empty(1, 16, FULL.latent_frames, *FULL.latent_size)
        sketches: dict[str, Sketch] = {
            "rgb": LatentRgb(torch.empty(16, 3), torch.empty(3)),
            "taehv": TaehvDecoder(),
        }
    result: dict[str, Any] = {"step": step}
    for name, sketch in sketches.items():
        with FlopCounterMode(display=False) as counter:
            shape = list(sketch(latents).shape)
        operations = counter.get_total_flops()
        share = operations / step
        result[name] = {"operations": operations, "share_of_a_step": share, "frames": shape}
    return result


def prepared(pipeline: VideoPipeline) -> dict[str, Any]:
    """The fit at the start of a worker, and the file of a full-size preview, on the CPU."""
    height, width = FULL.latent_size
    pixels = prepare(_PHOTOGRAPH.read_bytes(), 8 * width, 8 * height)
    still = np.frombuffer(pixels.rgb, np.uint8).reshape(8 * height, 8 * width, 3)[::8, ::8]
    generator = np.random.default_rng(0)
    kinds = {
        "photograph": [np.roll(still, -n, axis=1) for n in range(FULL.latent_frames)],
        "noise": [
            generator.integers(0, 256, still.shape, dtype=np.uint8)
            for _ in range(FULL.latent_frames)
        ],
    }
    files = {
        name: {
            **timed(lambda frames=frames: animation(frames), _CPU, runs=5),  # type: ignore[misc]
            "bytes": len(animation(frames)),
        }
        for name, frames in kinds.items()
    }
    fit = timed(lambda: fit_latent_rgb(pipeline.vae), pipeline.placement.device, runs=3)
    return {"fit": fit, "webp": files}


def side_by_side(
    pipeline: VideoPipeline, spec: VideoSpec, pairs: int
) -> tuple[dict[str, Any], list[bytes]]:
    """Videos without previews and with them, in turn; and what the last one showed."""
    pixels = prepare(_PHOTOGRAPH.read_bytes(), pipeline.width, pipeline.height)
    runs: dict[str, list[dict[str, Any]]] = {"off": [], "on": []}
    videos = set()
    shown: list[bytes] = []
    for index in range(2 * (pairs + 1)):
        name = ("off", "on")[index % 2]
        shown = []
        run, video = _made(pipeline, spec, pixels, shown if name == "on" else None)
        videos.add(video)
        if index >= 2:  # the first two warm up
            runs[name].append({**run, "previews": len(shown)})
    result: dict[str, Any] = {"same_bytes": len(videos) == 1}
    for name, measured in runs.items():
        result[name] = {
            key: [run[key] for run in measured] for key in ("seconds", "cpu_seconds", "previews")
        }
    for key in ("seconds", "cpu_seconds"):
        pairs_of = zip(runs["on"], runs["off"], strict=True)
        result[f"{key}, on / off"] = median(on[key] / off[key] for on, off in pairs_of)
    return result, shown


def _made(
    pipeline: VideoPipeline, spec: VideoSpec, pixels: Pixels, shown: list[bytes] | None
) -> tuple[dict[str, float], bytes]:
    """Seconds of the frames of a video, and its last one."""
    show = None if shown is None else shown.append
    watcher = Watcher(lambda _progress: None, lambda: False, show)
    started, cpu_started = time.perf_counter(), time.process_time()
    frames = list(pipeline._frames(spec, [pixels], watcher))
    seconds = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
    }
    return seconds, np.stack(frames).tobytes()


def sheet(previews: list[bytes]) -> Image.Image:
    """A row of frames for each preview, the earliest on top."""
    rows = [list(_frames(file)) for file in previews]
    width, height = rows[0][0].size
    whole = Image.new("RGB", (width * max(map(len, rows)), height * len(rows)))
    for y, row in enumerate(rows):
        for x, frame in enumerate(row):
            whole.paste(frame, (x * width, y * height))
    return whole


def _frames(file: bytes) -> Iterator[Image.Image]:
    with Image.open(io.BytesIO(file)) as image:
        yield from (frame.convert("RGB") for frame in ImageSequence.Iterator(image))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what previews cost.")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--steps", type=int, default=35)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    pipeline = load_pipeline(WeightStore(options.weights), options.device, guardrail="off")
    pipeline = replace(pipeline, sketch=fit_latent_rgb(pipeline.vae))
    spec = VideoSpec(
        prompt=_PROMPT, seed=1, num_frames=options.frames, num_inference_steps=options.steps
    )
    measured, shown = side_by_side(pipeline, spec, options.pairs)
    results = {
        **describe(),
        "every_s": EVERY_S,
        "counted": counted(),
        "prepared": prepared(pipeline),
        "video": {
            "size": [pipeline.width, pipeline.height],
            "frames": options.frames,
            "steps": options.steps,
            "device": options.device,
        },
        "side by side": measured,
    }
    print(json.dumps(results, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=2) + "\n")
    if options.png is not None and shown:
        sheet(shown).save(options.png)


if __name__ == "__main__":
    main()
