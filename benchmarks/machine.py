"""What a result was measured on: machine, versions and commit."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MODEL_PACKAGES = (
    "torch",
    "triton",
    "diffusers",
    "transformers",
    "accelerate",
    "pillow",
    "imageio-ffmpeg",
    "fastapi",
    "uvicorn",
)
SERVER_PACKAGES = ("fastapi", "starlette", "uvicorn", "sqlalchemy", "pydantic")
_GIB = 2**30


def describe(packages: Sequence[str] = MODEL_PACKAGES) -> dict[str, Any]:
    """JSON-able facts for the head of every result; `packages` are those that matter to it."""
    return {
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 1),
            "gpu": _gpu() if "torch" in packages else None,
            "load_average": os.getloadavg()[0],
        },
        "versions": {
            "python": platform.python_version(),
            **{package: _version(package) for package in packages},
        },
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    """None where the package is not there, as on a machine that only computes."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _gpu() -> dict[str, Any] | None:
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / _GIB, 1),
        "cuda": torch.version.cuda,
    }


def _commit() -> str:
    """The commit of the tree, with a plus sign if files differ from it; `unknown` without git."""
    root = Path(__file__).parent.parent
    commit = _git(root, "rev-parse", "--short", "HEAD")
    if commit is None:
        return "unknown"
    return commit + "+" if _git(root, "status", "--porcelain", "--untracked-files=no") else commit


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None without git, or in a tree that is no repository of this user."""
    try:
        run = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except OSError:
        return None
    return run.stdout.strip() if run.returncode == 0 else None
