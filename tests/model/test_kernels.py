"""Each fused kernel computes what its plain form does; run by Triton's interpreter on a CPU.

The interpreter has to be chosen before Triton is imported, so these run in a process of their own:
`kernel_cases.py` holds the cases, and prints the distances that are judged here.
"""

import json
import subprocess
import sys

import pytest
from paths import SUPPORT

PROGRAM = SUPPORT / "kernel_cases.py"
FLOAT32 = 3e-7
"""Relative L2 to float64 of a float32 result: a few roundings."""

BFLOAT16 = 3.6e-3
"""Of a bfloat16 result. The interpreter cuts bits off where a GPU rounds: 3.3e-3 in mean."""


@pytest.fixture(scope="module")
def distances() -> dict[str, dict[str, float]]:
    """For each case: how far fused and plain are from float64, and from each other."""
    run = subprocess.run(
        [sys.executable, PROGRAM], env={"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    cases: dict[str, dict[str, float]] = json.loads(run.stdout)
    assert len(cases) >= 10
    return cases


def test_fused_float32_results_are_float64s_up_to_rounding(
    distances: dict[str, dict[str, float]],
) -> None:
    cases = {name: case for name, case in distances.items() if name.endswith("-> torch.float32")}
    assert cases
    assert {name: case for name, case in cases.items() if case["fused"] > FLOAT32} == {}


def test_fused_bfloat16_results_lose_bits_once(distances: dict[str, dict[str, float]]) -> None:
    cases = {name: case for name, case in distances.items() if name.endswith("-> torch.bfloat16")}
    assert cases
    assert {name: case for name, case in cases.items() if case["fused"] > BFLOAT16} == {}


def test_fused_float32_is_no_further_from_float64_than_plain(
    distances: dict[str, dict[str, float]],
) -> None:
    wide = {name: case for name, case in distances.items() if name.endswith("-> torch.float32")}
    worse = {name: c for name, c in wide.items() if c["fused"] > 1.05 * c["plain"] + 1e-8}
    assert worse == {}


def test_nothing_outside_the_heads_is_written(distances: dict[str, dict[str, float]]) -> None:
    assert {case.get("outside", 0.0) for case in distances.values()} == {0.0}
