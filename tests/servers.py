"""Servers for tests: the real app with scripted workers, on a checkpoint that loads in no time."""

import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from checkpoint_files import write_checkpoint, write_json
from PIL import Image

from server.app import create_app
from server.settings import Settings

ENDPOINT = "fal-ai/cosmos-predict-2.5/image-to-video"
APP = "fal-ai/cosmos-predict-2.5"
WIDTH, HEIGHT, MAX_FRAMES = 96, 64, 45
BASE_URL = "http://localhost:8000"


def write_small_checkpoint(root: Path, **changes: Any) -> Path:
    """A checkpoint that a server accepts and reads its limits from; no model loads from it."""
    plain = {"width": WIDTH, "height": HEIGHT, "max_frames": MAX_FRAMES, "guardrail": "none"}
    write_checkpoint(root)
    write_json(root / "cosmos_serve.json", plain | changes)
    return root


def settings_in(folder: Path, **changes: Any) -> Settings:
    """Settings for a server with one scripted worker, with all that it keeps in `folder`."""
    weights = folder / "checkpoint"
    if not weights.exists():
        write_small_checkpoint(weights)
    plain: dict[str, Any] = {
        "weights": weights,
        "data": folder / "data",
        "devices": "cpu",
        "worker": "workers:ScriptedWorker",
    }
    return Settings.load(**(plain | changes))


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Run the app in this process; the client speaks to it without a socket."""
    app = create_app(settings)
    # An unforeseen error is answered as the server answers it, and not raised here.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=BASE_URL, timeout=60) as client,
    ):
        yield client


def picture(width: int = WIDTH, height: int = HEIGHT, colour: str = "teal") -> bytes:
    """A PNG."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def data_uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def request_of(prompt: str = "a red car", **fields: Any) -> dict[str, Any]:
    """A request that takes two steps; the prompt may hold commands for the scripted worker."""
    plain = {"prompt": prompt, "image_url": data_uri(picture()), "num_inference_steps": 2}
    return plain | fields
