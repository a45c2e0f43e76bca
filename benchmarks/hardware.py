"""The README's table of GPUs: which memory plan each follows, and a video's seconds.

    python -m benchmarks.hardware [--page README.md]

An H200 was measured: `benchmarks/results/gpu-h200.json`. The others are predicted: the plan follows
from `benchmarks/results/memory-counts.json`, as `auto` would choose it, and the seconds are the
operations of the default video at the share of a card's data sheet that the H200 reached.
"""

import argparse
import json
import re
from pathlib import Path

_RESULTS = Path(__file__).with_name("results")
COUNTS = _RESULTS / "memory-counts.json"
MEASURED = _RESULTS / "gpu-h200.json"

H200 = "H200, 141 GB"

CARDS = {
    H200: (141, 989),
    "H100, 80 GB": (80, 989),
    "A100, 80 GB": (80, 312),
    "L40S, 48 GB": (48, 362),
    "RTX 5090, 32 GB": (32, 209.5),
    "RTX 4090, 24 GB": (24, 165.2),
    "RTX 5080, 16 GB": (16, 112.6),
    "RTX 4070, 12 GB": (12, 58.3),
}
"""Memory, and dense bfloat16 products summed in float32 in TFLOP/s, by NVIDIA's data sheets."""

SPARE_GIB = 1.0
BESIDE_THE_MODEL_GIB = 4
"""What is left free of a GPU, and what the processes take of the host beside the checkpoint."""

CHECKPOINT_GIB = 20
"""On the disk, approximately: by what others published of the same commit."""

_TABLE = re.compile(r"(<!-- hardware -->\n).*?(<!-- end of hardware -->)", re.DOTALL)


def table() -> str:
    """The rows, in Markdown."""
    counts = json.loads(COUNTS.read_text())
    weights = sum(counts["weights, GiB"][name] for name in ("text_model", "transformer", "vae"))
    host = f"{weights + BESIDE_THE_MODEL_GIB:.0f} GiB"
    rows = [
        f"| {name} | `{_plan(gib, counts['peak by plan, GiB'])}` | {host} | {CHECKPOINT_GIB} GiB "
        f"| {_seconds(name, tflops)} |"
        for name, (gib, tflops) in CARDS.items()
    ]
    head = "| GPU | memory plan | host memory | disk for the weights | default video |"
    return "\n".join([head, "|---|---|--:|--:|--:|", *rows]) + "\n"


def _plan(gib: float, peaks: dict[str, float]) -> str:
    return next(plan for plan, peak in peaks.items() if peak + SPARE_GIB <= gib)


def _seconds(name: str, tflops: float) -> str:
    """As measured; of the other cards two digits, for it is no more than a proportion."""
    job = json.loads(MEASURED.read_text())["job"]
    if name == H200:
        return f"{job['all_s']:.0f} s, measured"
    rest_s = job["all_s"] - job["denoise_s"]
    seconds = job["denoise_s"] * CARDS[H200][1] / tflops + rest_s
    return f"{round(seconds, -1 if seconds < 1000 else -2):,.0f} s"


def page_text(page: str) -> str:
    """The page with the table as it is now."""
    return _TABLE.sub(lambda found: found[1] + table() + found[2], page)


def main() -> None:
    """Print the table; put it into a page, if one is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, help="a page to put the table into")
    page = parser.parse_args().page
    print(table(), end="")
    if page is not None:
        page.write_text(page_text(page.read_text()))


if __name__ == "__main__":
    main()
