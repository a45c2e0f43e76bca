"""Does the stand-in move a photograph as the prompt says? Measured on photographs it never saw.

    python -m benchmarks.stand_in [--weights DIR] [--device cuda:0] [--out FILE] [--limit N]
        [--page FILE]

Each case is one video, or two where a second seed is compared. The results are saved after every
case, and those that are there for the same checkpoint are not measured again. A file is of one
device.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe
from benchmarks.motion import grey, path, psnr_db
from benchmarks.stand_in_report import RESULTS, page_text, write_page
from pipeline.denoise import denoise
from pipeline.generate import VideoPipeline
from pipeline.guardrail import Frame
from pipeline.image import prepare
from pipeline.load import load_pipeline
from pipeline.spec import Pixels, VideoSpec
from pipeline.vae import decode, encode, to_video
from weights.stand_in.checkpoint import write_stand_in
from weights.store import WeightStore

PHOTOGRAPHS = sorted(Path(__file__).with_name("photographs").glob("*.png"))
SMALL, NATIVE = (160, 96), (320, 176)
STEPS, GUIDANCES, SEEDS = (12, 35), (1.0, 7.0, 20.0), (1, 2)

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Which way the picture goes, in x and y."""
SPEEDS = {"slowly ": 1, "": 2, "quickly ": 4}
"""Pixels a frame."""
MOVES = {f"The camera pans {word}.": (2 * x, 2 * y) for word, (x, y) in DIRECTIONS.items()}
PAN, HOLD = next(iter(MOVES)), "The camera is static."
MOVES[HOLD] = (0, 0)
SILENT = "A quiet morning."
"""A sentence that asks for no move."""


@dataclass(frozen=True, slots=True)
class Case:
    """A video to make of a photograph, and how far its picture is to go with every frame.

    `moved` is None where the seed decides. `other_seed` is that of a second video to compare.
    """

    part: str
    photograph: Path
    prompt: str
    moved: tuple[int, int] | None = None
    size: tuple[int, int] = SMALL
    frames: int = 9
    steps: int = 12
    guidance: float = 7.0
    seed: int = 1
    other_seed: int | None = None

    @property
    def name(self) -> str:
        """Its name in the results."""
        return f"{self.part}: {self.photograph.stem}, {self.prompt} seed {self.seed}"


def cases() -> Iterator[Case]:
    """All of them."""
    for photograph, prompt, seed in product(PHOTOGRAPHS, MOVES, SEEDS):
        for steps, guidance in product(STEPS, GUIDANCES):
            case = Case(
                f"{steps} steps, guidance {guidance:.0f}", photograph, prompt, MOVES[prompt]
            )
            yield replace(case, steps=steps, guidance=guidance, seed=seed)
    for photograph, word, adverb in product(PHOTOGRAPHS, DIRECTIONS, SPEEDS):
        x, y = (SPEEDS[adverb] * step for step in DIRECTIONS[word])
        yield Case("speeds", photograph, f"The camera moves {adverb}{word}.", (x, y))
    for (seed, photograph), word in product(enumerate(PHOTOGRAPHS, start=3), DIRECTIONS):
        # No guidance and small steps: the noise has the most time to decide first.
        slow = Case("slowly, 35 steps, guidance 1", photograph, f"The camera moves slowly {word}.")
        yield replace(slow, moved=DIRECTIONS[word], steps=35, guidance=1, seed=seed)
    for photograph, guidance in product(PHOTOGRAPHS, GUIDANCES):
        few = Case(f"8 steps, guidance {guidance:.0f}", photograph, PAN, MOVES[PAN])
        yield replace(few, steps=8, guidance=guidance)
    for photograph in PHOTOGRAPHS:
        yield replace(Case("again", photograph, SILENT), other_seed=1)
        yield replace(Case("another seed, no move asked for", photograph, SILENT), other_seed=2)
        moved = Case("another seed, a move asked for", photograph, PAN, MOVES[PAN])
        yield replace(moved, other_seed=2)
        yield replace(Case("93 frames held", photograph, HOLD, MOVES[HOLD]), frames=93)
    for photograph, prompt in zip(PHOTOGRAPHS, cycle(MOVES), strict=False):
        native = Case("320x176, 25 frames, 35 steps", photograph, prompt, MOVES[prompt])
        yield replace(native, size=NATIVE, frames=25, steps=35)


@torch.inference_mode()
def make(pipeline: VideoPipeline, case: Case, pixels: Pixels, seed: int) -> list[Frame]:
    """The frames, as they go to the encoder."""
    spec = VideoSpec(
        prompt=case.prompt,
        seed=seed,
        num_frames=case.frames,
        num_inference_steps=case.steps,
        guidance_scale=case.guidance,
    )
    latents = denoise(
        pipeline.transformer,
        pipeline.scheduler_config,
        encode(pipeline.vae, to_video([pixels])),
        pipeline.text.encode(spec.prompt),
        pipeline.text.encode(spec.negative_prompt) if spec.guided else None,
        spec,
        lambda *_: None,
    )
    return list(decode(pipeline.vae, latents))


def measure(pipeline: VideoPipeline, case: Case) -> dict[str, Any]:
    pixels = prepare(case.photograph.read_bytes(), *case.size)
    given = np.frombuffer(pixels.rgb, np.uint8).reshape(pixels.height, pixels.width, 3)
    frames = make(pipeline, case, pixels, case.seed)
    pictures = [grey(frame) for frame in frames]
    places = path(pictures)
    result: dict[str, Any] = {
        "part": case.part,
        "moved_px": list(places[-1]),
        "first_frame_db": round(psnr_db(frames[0], given), 2),
        "mean": [round(float(pictures[index].mean()), 1) for index in (0, -1)],
        "contrast": [round(float(pictures[index].std()), 1) for index in (0, -1)],
    }
    if case.moved is not None:
        wanted = ((case.frames - 1) * step for step in case.moved)
        result["off_px"] = max(
            abs(found - asked) for found, asked in zip(places[-1], wanted, strict=True)
        )
    if case.other_seed is not None:
        others = make(pipeline, case, pixels, case.other_seed)
        result["bits_equal"] = all(map(np.array_equal, frames, others))
        difference = frames[-1].astype(float) - others[-1].astype(float)
        result["difference_levels"] = round(float(np.abs(difference).mean()), 2)
    return result


def round_trips(pipeline: VideoPipeline) -> dict[str, float]:
    """Decibels of each photograph at 320x176, encoded and decoded."""
    values = {}
    for photograph in PHOTOGRAPHS:
        pixels = prepare(photograph.read_bytes(), *NATIVE)
        given = np.frombuffer(pixels.rgb, np.uint8).reshape(pixels.height, pixels.width, 3)
        (again,) = decode(pipeline.vae, encode(pipeline.vae, to_video([pixels])))
        values[photograph.stem] = round(psnr_db(again, given), 2)
    return values


def run(weights: Path, out: Path, limit: int | None, device: str = "cpu") -> dict[str, Any]:
    """Measure what is not in the file yet, `limit` cases at most; the whole report."""
    store = WeightStore(weights)
    checkpoint = store.fingerprint("text_encoder", "transformer", "vae")
    report: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    is_begun = report.get("checkpoint") == checkpoint
    if is_begun and (measured := report.get("device", "cpu")) != device:
        sys.exit(f"{out} is of {measured}, not {device}: name another with --out.")
    pipeline = load_pipeline(store, device)
    if not is_begun:
        trips = round_trips(pipeline)
        report = {"checkpoint": checkpoint, "device": device, "round_trip_db": trips, "cases": {}}
    report = describe() | report
    # In an order in which the first of them stand for all.
    every = sorted(cases(), key=lambda case: hashlib.sha256(case.name.encode()).digest())
    waiting = [case for case in every if case.name not in report["cases"]]
    for case in waiting[:limit]:
        report["cases"][case.name] = measure(pipeline, case)
        _save(report, out)
        print(f"{len(report['cases'])} {case.name}", flush=True)
    return report


def _save(report: dict[str, Any], out: Path) -> None:
    """A line for each case. A run that is interrupted leaves a whole file."""
    head = json.dumps({name: report[name] for name in report if name != "cases"}, indent=2)
    cases = (
        f"    {json.dumps(name)}: {json.dumps(case)}" for name, case in report["cases"].items()
    )
    text = head.removesuffix("\n}") + ',\n  "cases": {\n' + ",\n".join(cases) + "\n  }\n}\n"
    unfinished = out.with_suffix(".part")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished.write_text(text)
    unfinished.replace(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how the stand-in moves photographs.")
    parser.add_argument("--weights", type=Path, help="a stand-in; one is made, if left out")
    parser.add_argument("--device", default="cpu", help="as torch names it")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--limit", type=int, help="cases to measure at most")
    parser.add_argument("--page", type=Path, help="a page to put the table into")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights
        if weights is None:
            weights = Path(folder, "stand-in")
            write_stand_in(weights, weights="moving")
        report = run(weights, options.out, options.limit, options.device)
    print(page_text(report))
    if options.page is not None:
        write_page(report, options.page)


if __name__ == "__main__":
    main()
