"""The benchmarks run from end to end; what they measure here says nothing."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT
from stand_ins import stand_in

from benchmarks import cluster, gpu
from benchmarks.machine import describe
from benchmarks.simulated_cluster import Meter
from benchmarks.simulated_pool import Workers
from benchmarks.timing import Case, Report

SECTIONS = {
    *("machine", "kernels", "precision", "ceilings", "attention", "job", "ceilings after the job"),
    *("memory", "step", "diffusers", "end to end", "vae", "ratios"),
}
NOT_THERE = (
    *("fastapi", "starlette", "uvicorn", "imageio_ffmpeg", "structlog", "sqlalchemy", "typer"),
    *("psutil", "pydantic_settings", "prometheus_client"),
)
"""What a machine that only computes does not have."""

PARTS = """
import runpy, sys
out, *missing = sys.argv[1:]
sys.modules.update(dict.fromkeys(missing))
for part in "123":
    sys.argv = ["gpu", "--tiny", "--device", "cpu", "--part", part, "--out", out]
    try:
        runpy.run_module("benchmarks.gpu", run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, ended.code
"""
"""The three calls in one process, where the modules that are named cannot be imported."""


def _run(*arguments: str) -> None:
    run = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_of_the_gpu_benchmark_ends_in_a_file_where_there_is_ffmpeg(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    _run("-m", "benchmarks.gpu", "--tiny", "--device", "cpu", "--only", "job", "--out", str(out))
    job = json.loads(out.read_text())["job"]
    assert (job["sink"], job["frames"]) == ("x264", 9)
    assert job["file_bytes"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_gpu_benchmark_is_rehearsed_in_its_three_calls(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    _run("-c", PARTS, str(out), *NOT_THERE)
    results = json.loads(out.read_text())
    assert set(results) == SECTIONS
    assert results["job"]["frames_sha256"]
    assert results["precision"]["ours / recipe"] <= 0.9
    assert results["memory"]["same frames"] is True
    for plan in ("resident", "offload", "stream"):
        stages = {"load", "text", "image", "denoise", "decode", "encode"}
        assert stages < set(results["memory"][plan])
    device = results["end to end"]["device, float32"]
    assert (device["mean difference"], device["largest difference"]) == (0, 0)
    assert len(device["steps_s"]) == 4
    assert results["end to end"]["device, offloaded"]["same frames"] is True
    # The last needs the ceilings of the first call and the step of the second.
    assert {
        "step / diffusers",
        "step / diffusers compiled",
        "step / floor",
        "loop: share of the ceilings",
    } <= set(results["ratios"])


def test_a_report_keeps_what_its_file_has_and_every_case_of_a_section_that_is_cut_off(
    tmp_path: Path,
) -> None:
    def cut_off() -> Iterator[Case]:
        yield "first", 1
        raise KeyboardInterrupt

    def failing() -> Iterator[Case]:
        yield "first", 1
        raise RuntimeError("no second")

    out = tmp_path / "results" / "report.json"
    Report(out).section("earlier", lambda: [("kept", 1.5)])
    report = Report(out)
    report.section("fails", failing)
    with pytest.raises(KeyboardInterrupt):
        report.section("is cut off", cut_off)

    saved = json.loads(out.read_text())
    assert list(saved) == ["earlier", "fails", "is cut off"]
    assert saved["earlier"]["kept"] == Report(out).get("earlier", "kept") == 1.5
    assert saved["fails"]["first"] == 1
    assert saved["fails"]["failed"][-1] == "RuntimeError: no second"
    assert saved["is cut off"] == {"first": 1}

    Report(out).section("fails", lambda: [("second", 2)])
    assert Report(out).get("fails", "failed") is None


def test_figures_of_two_gpus_do_not_meet_in_one_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.json"
    out.write_text(json.dumps({"machine": {"measured": "93 frames on an H200"}}))
    options = ["--tiny", "--device", "cpu", "--part", "1", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["gpu", *options])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "is of 93 frames on an H200, not 9 frames" in capsys.readouterr().err


def test_a_machine_is_described_without_the_packages_and_without_git(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = describe(["no-such-package", "pillow"])
    assert facts["versions"]["no-such-package"] is None
    assert facts["versions"]["pillow"]
    assert facts["commit"] == "unknown"


def test_the_stage_benchmark_measures_every_stage(tmp_path: Path) -> None:
    out = tmp_path / "stages.json"
    sizes = ["--frames", "9", "--steps", "2", "--runs", "1"]
    _run("-m", "benchmarks.stages", "--weights", str(stand_in()), *sizes, "--out", str(out))
    (run,) = json.loads(out.read_text())["runs"]
    assert set(run["seconds"]) == {"text", "image", "denoise", "decode", "encode"}
    assert all(seconds >= 0 for seconds in run["seconds"].values())
    assert all(peak > 0 for peak in run["peak_mib"].values())
    assert run["ffmpeg_peak_mib"] > 0
    assert run["file_bytes"] > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_benchmark_of_a_server_measures_each_video_from_the_submit_to_the_file(
    tmp_path: Path,
) -> None:
    out, kept = tmp_path / "served.json", tmp_path / "kept"
    sizes = ["--frames", "9", "--steps", "2", "--steps", "3", "--preview", "off"]
    files = ["--weights", str(stand_in()), "--out", str(out), "--keep", str(kept)]
    _run("-m", "benchmarks.served", *sizes, *files)
    served = json.loads(out.read_text())
    assert served["ready"]["status"] == "ready"
    assert [video["steps"] for video in served["videos"]] == [2, 3]
    for video in served["videos"]:
        assert video["frames_in_file"] == 9
        assert 0 < video["submitted_s"] < video["completed_s"] < video["fetched_s"]
        assert video["metrics"]["stage_seconds"]["denoise"] >= 0
    assert {file.name for file in kept.iterdir()} == {"1-video.mp4", "2-video.mp4", "server.log"}


async def test_the_cluster_benchmark_counts_every_job_where_workers_die_and_nodes_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "AWAY_S", 0.2)
    site = cluster.Site(tmp_path, tmp_path / "jobs.sqlite3", Meter(None))
    workers = Workers(slots=64, least_s=0.01, median_s=0.05, deaths=0.5, load_s=0.01)

    found = await cluster.faults(site, workers, seconds=0.8)

    assert found["jobs"] == found["made"] + found["given_up_at_the_second_death"] == 12
    assert (found["lost"], found["doubled"], found["nodes_left"]) == (0, 0, 2)
    assert found["runs"] > found["jobs"]
