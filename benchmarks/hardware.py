"""The README's table of GPUs: which memory plan each follows, and the seconds that are predicted.

    python -m benchmarks.hardware [--page README.md]

Nothing is measured. The plan follows from `benchmarks/results/memory-counts.json`, as `auto` would
choose it. The seconds are the operations of the default video at the share of a card's data sheet
that docs/performance.md predicts for an H200.
"""

import argparse
import json
import re
from pathlib import Path

from benchmarks.full_size import FULL
from benchmarks.ratios import step_operations

COUNTS = Path(__file__).with_name("results") / "memory-counts.json"

CARDS = {
    "H200, 141 GB": (141, 989),
    "H100, 80 GB": (80, 989),
    "A100, 80 GB": (80, 312),
    "L40S, 48 GB": (48, 362),
    "RTX 5090, 32 GB": (32, 209.5),
    "RTX 4090, 24 GB": (24, 165.2),
    "RTX 5080, 16 GB": (16, 112.6),
    "RTX 4070, 12 GB": (12, 58.3),
}
"""Memory, and dense bfloat16 products summed in float32 in TFLOP/s, by NVIDIA's data sheets."""

H200_LOOP_S = 209.0
H200_REST_S = 5.0
"""The 35 steps, and what comes before and after them; predicted by docs/performance.md."""

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
        f"| {_seconds(tflops):,.0f} s |"
        for name, (gib, tflops) in CARDS.items()
    ]
    head = "| GPU | memory plan | host memory | disk for the weights | default video, predicted |"
    return "\n".join([head, "|---|---|--:|--:|--:|", *rows]) + "\n"


def _plan(gib: float, peaks: dict[str, float]) -> str:
    return next(plan for plan, peak in peaks.items() if peak + SPARE_GIB <= gib)


def _seconds(tflops: float) -> float:
    """Two digits: it is no more than a proportion."""
    operations = FULL.steps * sum(step_operations(FULL).values())
    share = operations / H200_LOOP_S / (CARDS["H200, 141 GB"][1] * 1e12)
    seconds = operations / (share * tflops * 1e12) + H200_REST_S
    return round(seconds, -1) if seconds < 1000 else round(seconds, -2)


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
