"""Timing on a device, and results that are saved as they come."""

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: torch.device, *, runs: int) -> dict[str, Any]:
    """Seconds of `work`, run once to warm up and then `runs` times."""
    work()
    seconds = []
    for _ in range(runs):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return {"median_s": median(seconds), "least_s": min(seconds), "most_s": max(seconds), "n": runs}


def reset_peak(device: torch.device) -> None:
    """Start again to note the most that a GPU is asked for."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> dict[str, float]:
    """The most that a GPU was asked for since; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    return {"peak_gib": torch.cuda.max_memory_allocated(device) / 2**30}


@dataclass
class Report:
    """The sections of one benchmark, printed and saved as each ends."""

    out: Path
    results: dict[str, Any] = field(default_factory=dict)

    def section(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Run one section. One that fails is noted and does not cost the others."""
        print(f"\n== {name}", flush=True)
        started = time.perf_counter()
        try:
            result = measure()
        except Exception:
            # A GPU is lent for minutes: what the other sections measure must not be lost.
            result = {"failed": traceback.format_exc().splitlines()[-12:]}
        result["section_s"] = round(time.perf_counter() - started, 1)
        self.results[name] = result
        for line in _lines(result):
            print(line, flush=True)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.results, indent=2) + "\n")

    def get(self, *keys: str) -> Any:
        """A value that an earlier section measured; None if it failed or was left out."""
        value: Any = self.results
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value


def _lines(value: dict[str, Any], indent: str = "  ") -> list[str]:
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += [f"{indent}{key}", *_lines(item, indent + "  ")]
        elif isinstance(item, list):
            lines += [f"{indent}{key}", *(f"{indent}  {line}" for line in item)]
        else:
            shown = f"{item:.5g}" if isinstance(item, float) else item
            lines.append(f"{indent}{key}: {shown}")
    return lines
