"""The image has Python 3.13, for which there may be no torch here: what needs none runs on it."""

import subprocess
from pathlib import Path

import pytest
from containers import (
    NEEDED_BY_TORCH,
    PROJECT,
    debian,
    podman,
    requirements_of,
    wheelhouse,
)
from paths import ROOT

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]

PYTHON = "3.13"
NOT_FOR_TESTS = ("mypy", "ruff", "types-psutil")
FOLDERS = (
    *("api", "auth", "connections", "db", "dispatch", "fal", "files", "inputs", "jobs"),
    *("log", "outbound", "webhooks"),
)
UV = ROOT / ".venv-tools" / "bin" / "uv"


def test_the_torch_free_tests_pass(tmp_path: Path) -> None:
    left_out = (*NEEDED_BY_TORCH, *NOT_FOR_TESTS)
    requirements = [each for each in requirements_of("dev") if not each.startswith(left_out)]
    wheels = wheelhouse([*requirements, "hatchling", "editables"], PYTHON)
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT)
    archive = tmp_path / "source.tar"
    subprocess.run(
        ["tar", "--create", f"--file={archive}", "--null", "--files-from=-"],
        cwd=ROOT,
        input=listed,
        check=True,
    )
    (tmp_path / "requirements.txt").write_text("\n".join([*requirements, "hatchling", "editables"]))
    tests = " ".join(f"tests/{folder}" for folder in FOLDERS)
    script = f"""
        set -e
        mkdir /source && cd /source && tar -xf /mnt/source.tar
        python3 -m venv /venv
        pip="/venv/bin/pip --quiet --no-input"
        $pip install --no-index --find-links /wheels -r /mnt/requirements.txt
        $pip install --no-index --no-deps --no-build-isolation -e .
        /venv/bin/python -m pytest -q -n 2 --dist loadfile {tests}
        # The shell stays the first process: children whose parent has died are its own.
        exit
    """

    said = podman(
        *("run", "--rm", "--network=none", f"--volume={tmp_path}:/mnt:ro"),
        *(f"--volume={wheels}:/wheels:ro", debian("trixie", "python3", "python3-venv")),
        *("bash", "-c", script),
    )

    assert " passed" in said.splitlines()[-1]
    print(said.splitlines()[-1])


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_wheels_of_every_extra_can_be_had(machine: str) -> None:
    """They are resolved, and not downloaded."""
    extras = [f"--extra={name}" for name in PROJECT["optional-dependencies"] if name != "dev"]
    resolved = subprocess.check_output(
        [
            *(UV, "pip", "compile", "--quiet", "--no-header", "--only-binary=:all:"),
            *(f"--python-version={PYTHON}", f"--python-platform={machine}-manylinux_2_28"),
            *("--constraints=constraints.txt", *extras, "pyproject.toml"),
        ],
        cwd=ROOT,
        text=True,
    )

    assert "\ntorch==2.13.0" in resolved
    assert ("fa3-fwd" in resolved) == (machine == "x86_64")
