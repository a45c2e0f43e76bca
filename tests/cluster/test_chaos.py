"""A rehearsal of `make chaos-cluster`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT, SUPPORT

KILLS = ("--kills=6", "--ray-kills=6", "--rounds=1")
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.usefixtures("bucket", "postgres_database")
def test_a_cluster_that_is_broken_at_random_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "chaos.json"
    command = [sys.executable, "-m", "benchmarks.chaos_cluster", f"--out={out}"]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    ran = subprocess.run([*command, *KILLS], cwd=ROOT, env=environment)

    parts = json.loads(out.read_text())["parts"]
    assert [part["problems"] for part in parts.values()] == [[], [], []]
    assert ran.returncode == 0
    for part in parts.values():
        assert sum(part["faults"].values()) > 6
        assert part["acknowledged"] > 10
