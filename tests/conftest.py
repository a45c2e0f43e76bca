"""What tests of the server share: a checkpoint of a handful of tensors, and settings for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import write_checkpoint, write_json

from server.settings import Settings

SERVER_WIDTH, SERVER_HEIGHT, SERVER_MAX_FRAMES = 96, 64, 45


@pytest.fixture
def small_checkpoint(tmp_path: Path) -> Path:
    """A checkpoint that a server accepts and reads its limits from; no model loads from it."""
    root = write_checkpoint(tmp_path / "checkpoint")
    profile = {
        "width": SERVER_WIDTH,
        "height": SERVER_HEIGHT,
        "max_frames": SERVER_MAX_FRAMES,
        "guardrail": "none",
    }
    write_json(root / "cosmos_serve.json", profile)
    return root


@pytest.fixture
def make_settings(small_checkpoint: Path, tmp_path: Path) -> Callable[..., Settings]:
    """Settings for a server with one scripted worker; keywords change them."""

    def make(**changes: Any) -> Settings:
        plain: dict[str, Any] = {
            "weights": small_checkpoint,
            "data": tmp_path / "data",
            "devices": "cpu",
            "worker": "workers:ScriptedWorker",
        }
        return Settings.load(**(plain | changes))

    return make
