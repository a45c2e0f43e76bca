"""Asks the oracle, diffusers' own pipeline, and keeps its answers.

It runs as a program in `.venv-oracle`, because it needs torchvision. Answers are kept by
checkpoint digest, job, versions and the oracle's own text, so a change of any asks again.
"""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import torch
from paths import ROOT
from safetensors.torch import load_file

from weights.store import WeightStore

PYTHON = ROOT / ".venv-oracle" / "bin" / "python"
CACHE = ROOT / ".cache" / "oracle"
PROGRAM = Path(__file__).with_name("oracle_diffusers.py")


def ask(store: WeightStore, job: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What diffusers computes for one job; see `oracle_diffusers.py` for its form."""
    answer = CACHE / f"{_key(store, job)}.safetensors"
    if not answer.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = answer.with_suffix(".part")
        request = {**job, "checkpoint": str(store.root), "out": str(part)}
        run = subprocess.run(
            [PYTHON, PROGRAM], input=json.dumps(request), text=True, capture_output=True
        )
        assert run.returncode == 0, f"the oracle failed:\n{run.stderr}"
        part.replace(answer)
    return load_file(answer)


def _key(store: WeightStore, job: dict[str, Any]) -> str:
    versions = sorted(p.name for p in PYTHON.parent.parent.glob("lib/*/site-packages/*.dist-info"))
    text = json.dumps([store.digest, job, versions], sort_keys=True) + PROGRAM.read_text()
    return hashlib.sha256(text.encode()).hexdigest()[:32]
