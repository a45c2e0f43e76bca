"""Timing on a device, and results that are saved as they come."""

import json
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

_NUM_KERNELS = 16
_NAME_LENGTH = 120
"""Names of templates are longer than a line is good for."""


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


def timed_warm(work: Callable[[], Any], device: torch.device, *, seconds: float) -> dict[str, Any]:
    """Seconds of `work` under load: it is repeated for so long, and the later half counts.

    A GPU's clocks fall within seconds of full power: a few runs on a cool one are too fast.
    """
    times: list[float] = []
    work()
    begun = time.perf_counter()
    while not times or time.perf_counter() - begun < seconds:
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - started)
    later = times[len(times) // 2 :]
    return {"median_s": median(later), "least_s": min(later), "most_s": max(later), "n": len(later)}


def by_kernel(work: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """The kernels that take most of `work` on a GPU, each with its number and seconds in all."""
    if device.type != "cuda":
        return {}
    work()
    synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        work()
        synchronize(device)
    kernels = sorted(profiled.key_averages(), key=lambda k: -k.self_device_time_total)
    return {
        kernel.key[:_NAME_LENGTH]: {"n": kernel.count, "s": kernel.self_device_time_total * 1e-6}
        for kernel in kernels[:_NUM_KERNELS]
    }


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


Case = tuple[str, Any]
"""The name of something measured, and its figures: a dictionary of JSON's types, or one value."""

Section = Callable[[], Iterable[Case]]


class Report:
    """The sections of one benchmark, printed and saved case by case.

    What the file holds is kept: a section that is run again replaces itself alone, so one file
    takes several runs. Delete the file to begin again.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}

    def section(self, name: str, measure: Section) -> None:
        """Run one section. One that fails is noted, and costs neither its cases nor the others."""
        print(f"\n== {name}", flush=True)
        result: dict[str, Any] = {}
        # At the end, where the last results are looked for, also of a section that is run again.
        self.results.pop(name, None)
        self.results[name] = result
        started = time.perf_counter()
        try:
            for case, value in measure():
                self._note(result, case, value)
        except Exception:
            # A GPU is lent for minutes: what the other sections measure must not be lost.
            self._note(result, "failed", traceback.format_exc().splitlines()[-12:])
        self._note(result, "section_s", round(time.perf_counter() - started, 1))

    def _note(self, result: dict[str, Any], case: str, value: Any) -> None:
        result[case] = value
        for line in _lines({case: value}):
            print(line, flush=True)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all, whenever the run is ended.
        unfinished = self.out.with_name(f"{self.out.name}.part")
        unfinished.write_text(json.dumps(self.results, indent=2) + "\n")
        unfinished.replace(self.out)

    def get(self, *keys: str) -> Any:
        """A value that a section measured, in this run or in the file; None if there is none."""
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
