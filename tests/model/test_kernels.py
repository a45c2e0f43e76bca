"""Each fused kernel computes what its plain form does; run by Triton's interpreter on a CPU.

The interpreter has to be chosen before Triton is imported, so these run in a process of their own:
`kernel_cases.py` holds the cases, and prints the distances that are judged here.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from paths import SUPPORT
from torch import Tensor

from pipeline.network.kernels import device, proof
from pipeline.network.kernels.causal import causal_input_plain
from pipeline.network.kernels.heads import norm_heads_plain_
from pipeline.network.kernels.proof import KernelChoice, choose_kernels
from pipeline.network.kernels.residual import Residual, add_gated_modulate_plain

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


CPU, GPU = torch.device("cpu"), torch.device("cuda")
SHAPE: dict[str, Any] = {"heads": 2, "head_dim": 32, "vae_channels": (16,)}


@pytest.fixture
def is_fused() -> Iterator[Callable[[], bool]]:
    """Whether this process may use the fused kernels; it may again after the test."""
    yield lambda: device._is_allowed
    device.allow_fused(True)


def _problem() -> str | None:
    return proof._problem(CPU, torch.bfloat16, torch.float32, **SHAPE)


def test_the_proof_passes_kernels_that_work() -> None:
    program = (
        "import torch; from pipeline.network.kernels import proof; "
        "print(proof._problem(torch.device('cpu'), torch.bfloat16, torch.float32, 2, 32, [16]))"
    )
    environment = {"TRITON_INTERPRET": "1"}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout) == (0, "None\n"), run.stderr


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (
            RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
            "RuntimeError: Failed to find C compiler.",
        ),
        (
            subprocess.CalledProcessError(1, ["gcc", "/tmp/x/cuda_utils.c"]),
            "CalledProcessError: Command '['gcc', '/tmp/x/cuda_utils.c']' returned",
        ),
        (
            PermissionError(13, "Permission denied", "/var/empty/.triton"),
            "PermissionError: [Errno 13]",
        ),
    ],
)
def test_a_kernel_that_cannot_be_compiled_is_a_problem_and_no_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception, problem: str
) -> None:
    def failing(*_: object) -> Residual:
        raise error

    monkeypatch.setattr(proof, "add_gated_modulate_fused", failing)
    assert (_problem() or "").startswith(problem)


@pytest.mark.parametrize("factor", [1.02, float("nan")])
def test_a_kernel_with_wrong_numbers_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    plain = add_gated_modulate_plain
    monkeypatch.setattr(
        proof,
        "add_gated_modulate_fused",
        lambda *arguments: Residual(plain(*arguments).hidden, plain(*arguments).normed * factor),
    )
    assert (_problem() or "").startswith("the modulated sum is off by")


def test_a_kernel_that_keeps_other_frames_than_it_should_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forgetful(frames: Tensor, kept: Tensor, padding: int, norm: Any) -> Tensor:
        return causal_input_plain(frames, kept.clone(), padding, norm)

    plain = {
        "add_gated_modulate_fused": add_gated_modulate_plain,
        "norm_heads_fused_": norm_heads_plain_,
        "causal_input_fused": forgetful,
    }
    for name, form in plain.items():
        monkeypatch.setattr(proof, name, form)
    assert (_problem() or "").startswith("what a convolution keeps is off by")


def test_memory_that_runs_out_in_the_proof_is_no_fault_of_the_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(*_: object) -> Residual:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(proof, "add_gated_modulate_fused", failing)
    with pytest.raises(torch.OutOfMemoryError):
        _problem()


def test_kernels_that_do_not_work_are_not_used_and_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch, is_fused: Callable[[], bool]
) -> None:
    found: list[str | None] = ["RuntimeError: no compiler", None]
    monkeypatch.setattr(proof, "_problem", lambda *_: found.pop(0))
    choice = choose_kernels(GPU, torch.bfloat16, torch.float32, **SHAPE)
    assert (choice.name, is_fused()) == ("plain", False)
    assert choice.problem is not None
    assert "(RuntimeError: no compiler)" in choice.problem
    assert "gcc and python3-dev" in choice.problem

    choice = choose_kernels(GPU, torch.bfloat16, torch.float32, **SHAPE)
    assert (choice, is_fused()) == (KernelChoice("fused"), True)


@pytest.mark.gpu
def test_the_kernels_of_the_published_network_work_on_this_gpu() -> None:
    choice = choose_kernels(GPU, torch.bfloat16, torch.float32, heads=16, head_dim=128)
    assert choice == KernelChoice("fused")


def test_a_cpu_has_the_plain_forms_and_no_problem() -> None:
    choice = choose_kernels(CPU, torch.float32, torch.float32, **SHAPE)
    assert choice == KernelChoice("plain")
