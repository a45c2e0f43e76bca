"""The benchmarks run from end to end; what they measure here says nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from stand_ins import stand_in

SECTIONS = {
    *("machine", "kernels", "precision", "ceilings", "attention", "step", "diffusers"),
    *("vae", "job", "memory", "ratios"),
}


def _run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.timeout(600)
def test_a_job_of_the_gpu_benchmark_ends_in_a_file_or_in_a_hash(tmp_path: Path) -> None:
    for sink, result in (("null", "frames_sha256"), ("x264", "file_bytes")):
        out = tmp_path / f"{sink}.json"
        _run("gpu", "--tiny", "--device", "cpu", "--only", "job", "--sink", sink, "--out", str(out))
        job = json.loads(out.read_text())["job"]
        assert (job["sink"], job["frames"]) == (sink, 9)
        assert job[result]


@pytest.mark.timeout(600)
def test_the_gpu_benchmark_is_rehearsed_from_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    _run("gpu", "--tiny", "--device", "cpu", "--out", str(out))
    results = json.loads(out.read_text())
    assert set(results) == SECTIONS
    assert {name for name, result in results.items() if "failed" in result} == set()
    assert results["job"]["frames"] == 9
    assert results["precision"]["ours / recipe"] <= 0.9
    assert results["memory"]["same frames"] is True
    assert set(results["memory"]["offload"]) == {"text", "image", "denoise", "decode"}
    assert {"step / diffusers eager", "step / floor", "loop: share of the ceilings"} <= set(
        results["ratios"]
    )


def test_the_stage_benchmark_measures_every_stage(tmp_path: Path) -> None:
    out = tmp_path / "stages.json"
    sizes = ["--frames", "9", "--steps", "2", "--runs", "1"]
    _run("stages", "--weights", str(stand_in()), *sizes, "--out", str(out))
    (run,) = json.loads(out.read_text())["runs"]
    assert set(run["seconds"]) == {"text", "image", "denoise", "decode", "encode"}
    assert all(seconds >= 0 for seconds in run["seconds"].values())
    assert all(peak > 0 for peak in run["peak_mib"].values())
    assert run["ffmpeg_peak_mib"] > 0
    assert run["file_bytes"] > 0
