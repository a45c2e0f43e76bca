"""`cosmos-serve doctor` on this machine."""

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from servers import COMMAND, settings_in


def doctor(folder: Path, *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Its exit code, and its checks by name."""
    settings = settings_in(folder)
    folders = ["--weights", str(settings.weights), "--data", str(settings.data)]
    command = [str(COMMAND), "doctor", "--json", "--devices", "cpu", *folders, *options]
    run = subprocess.run(command, capture_output=True, text=True)
    return run.returncode, {each["check"]: each for each in json.loads(run.stdout)}


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What it says where nothing is wrong."""
    code, checks = doctor(tmp_path_factory.mktemp("machine"), "--port", "0")
    assert code == 0, checks
    return checks


def test_what_it_says_is_so(checks: dict[str, dict[str, Any]]) -> None:
    import torch

    assert torch.__version__ in checks["torch"]["text"]
    assert checks["checkpoint"]["level"] == checks["ffmpeg"]["level"] == "ok"
    assert {each["level"] for each in checks.values()} <= {"ok", "warning", "skipped"}


def test_nothing_is_made_in_the_data_folder(tmp_path: Path) -> None:
    doctor(tmp_path)

    assert not settings_in(tmp_path).data.exists()


def test_what_is_wrong_is_a_line_and_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        command = [str(COMMAND), "doctor", "--weights", f"{tmp_path}/checkpoint", "--port", port]
        run = subprocess.run(command, capture_output=True, text=True)

    assert run.returncode == 1
    checkpoint, ports = (line for line in run.stdout.splitlines() if line.startswith("!!"))
    assert "model_index.json" in checkpoint and f"Port {port}" in ports
