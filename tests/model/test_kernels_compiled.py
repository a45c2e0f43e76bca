"""The kernels compile for Hopper and Ampere, on a machine that has neither, as they should."""

import json
from pathlib import Path

import pytest
from paths import ROOT

from benchmarks.kernels import KERNELS, TARGETS, compiled

REPORT = ROOT / "benchmarks" / "results" / "kernels.json"
MAX_REGISTERS = 64
"""Of a thread: four blocks of 256 then fit on a multiprocessor at once."""


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_spills_nothing_and_moves_sixteen_bytes_at_a_time(
    name: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    made = compiled(KERNELS[name], TARGETS[target])
    assert made["spilled_bytes"] == 0
    assert made["registers"] <= MAX_REGISTERS
    assert (set(made["loads"]), set(made["stores"])) == ({"128"}, {"128"})


def test_the_page_has_what_was_compiled() -> None:
    kernels = json.loads(REPORT.read_text())["kernels"]
    assert kernels.keys() == KERNELS.keys()
    page = (ROOT / "docs" / "performance.md").read_text()
    for name, made in kernels.items():
        used = [made[target] for target in TARGETS]
        cells = [f"{each['registers']}, {each['spilled_bytes']}" for each in used]
        moved = f"{made['sm_90']['loads']['128']} + {made['sm_90']['stores']['128']}"
        assert f"| {name} | {' | '.join(cells)} | {moved} |" in page
