"""Seconds and bytes of all 16 encodings, for 93 frames at full size.

    python -m benchmarks.encodings [--out FILE] [--frames 93]

The frames are the sample photograph drifting under fine noise: no real video, but not so hard on
an encoder as random pixels. ffmpeg alone is measured; frames come from memory.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from pipeline.encode import encode_video
from pipeline.guardrail import Frame
from pipeline.image import prepare
from pipeline.spec import Container, Quality

_SAMPLE = Path(__file__).parent.parent / "docs" / "sample" / "launch.jpg"
_WIDTH, _HEIGHT = 1280, 704
_NOISE_LEVELS = 4


def frames(count: int) -> Iterator[Frame]:
    """The photograph, a pixel further to the left each time, with noise of a few levels."""
    pixels = prepare(_SAMPLE.read_bytes(), _WIDTH, _HEIGHT)
    still = np.frombuffer(pixels.rgb, np.uint8).reshape(_HEIGHT, _WIDTH, 3).astype(np.int16)
    generator = np.random.default_rng(0)
    for index in range(count):
        noise = generator.integers(-_NOISE_LEVELS, _NOISE_LEVELS + 1, still.shape, dtype=np.int16)
        yield np.clip(np.roll(still, -index, axis=1) + noise, 0, 255).astype(np.uint8)


def measure(container: Container, quality: Quality, made: list[Frame]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        video = encode_video(
            iter(made),
            container,
            quality,
            width=_WIDTH,
            height=_HEIGHT,
            num_frames=len(made),
            out=Path(folder) / "video",
            check=lambda: None,
        )
        return {"seconds": time.perf_counter() - started, "bytes": video.path.stat().st_size}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure all encodings.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--frames", type=int, default=93)
    options = parser.parse_args()
    made = list(frames(options.frames))
    results: dict[str, Any] = {}
    for container in Container:
        for quality in Quality:
            name = f"{container.value} {quality.value}"
            results[name] = measure(container, quality, made)
            print(f"{name}: {results[name]['seconds']:.1f} s, {results[name]['bytes']:,} bytes")
    if options.out is not None:
        head = {**describe(), "frames": options.frames, "size": [_WIDTH, _HEIGHT]}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({**head, "encodings": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
