"""Servers for tests: the real app with scripted workers, on a checkpoint that loads in no time."""

import base64
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from checkpoint_files import write_checkpoint, write_json
from clips import clip
from fork_server import ForkedProcess, fork_server
from in_process_decoder import InProcessDecoder
from in_process_pool import InProcessPool
from paths import SUPPORT
from PIL import Image

from server.app import create_app
from server.config.settings import Settings
from server.fal.endpoints import EXTEND
from server.inputs.decoder import MediaDecoder
from server.workers.pool import Pool
from server.workers.pulling_pool import CheckpointPull

ENDPOINT = "fal-ai/cosmos-predict-2.5/image-to-video"
APP = "fal-ai/cosmos-predict-2.5"
WIDTH, HEIGHT, MAX_FRAMES = 96, 64, 45
BASE_URL = "http://localhost:8000"
COMMAND = Path(sys.executable).with_name("cosmos-serve")


def write_small_checkpoint(root: Path, **changes: Any) -> Path:
    """A checkpoint that a server accepts and reads its limits from; no model loads from it."""
    plain = {"width": WIDTH, "height": HEIGHT, "max_frames": MAX_FRAMES, "guardrail": "none"}
    write_checkpoint(root)
    write_json(root / "cosmos_serve.json", plain | changes)
    return root


def two_checkpoints(folder: Path) -> Path:
    """The setting `weights` for the checkpoints of all endpoints."""
    folders = [folder / name for name in ("base", "distilled")]
    for each, changes in zip(folders, ({}, {"sampler": "trigflow"}), strict=True):
        write_small_checkpoint(each, **changes)
    return Path(",".join(map(str, folders)))


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
async def serving(
    settings: Settings,
    *,
    worker_process: bool = False,
    pool: Pool | None = None,
    decoder: MediaDecoder | None = None,
    pull: CheckpointPull | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    """Run the app in this process; the client speaks to it without a socket.

    The worker is a thread, or with `worker_process` a process as users have it, which can die;
    `pool` takes the place of either. Pictures are decoded in a thread unless by `decoder`.
    """
    if pool is None and not worker_process:
        pool = InProcessPool.from_settings(settings)
    app = create_app(settings, pool, decoder or InProcessDecoder(), pull)
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


def request_for_each() -> dict[str, dict[str, Any]]:
    """A request for each endpoint, by its id, of two steps."""
    plain = {"prompt": "a red car", "num_inference_steps": 2}
    return {
        ENDPOINT: plain | {"image_url": data_uri(picture())},
        f"{APP}/text-to-video": plain,
        f"{APP}/video-to-video": plain | {"video_url": data_uri(clip())},
        f"{APP}/distilled/text-to-video": plain,
        EXTEND: plain | {"video_url": data_uri(clip())},
    }


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server in a process of its own."""

    process: subprocess.Popen[str] | ForkedProcess
    http: str
    https: str | None

    @property
    def https_host(self) -> str:
        """Host and port for HTTPS, as fal's clients want them."""
        assert self.https is not None
        return self.https.removeprefix("https://").replace("127.0.0.1", "localhost")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and wait; the exit code."""
        self.process.send_signal(number)
        assert self.process.stdout is not None
        with self.process.stdout:
            return self.process.wait(30)


def ignoring(*signals: str) -> list[str]:
    """The program for `launch` that ignores these signals from its start, such as `HUP`."""
    return ["sh", "-c", f"trap '' {' '.join(signals)}; exec \"$@\"", "sh", str(COMMAND)]


def logging_to(path: Path | str) -> list[str]:
    """The program for `launch` whose stderr is this file."""
    return ["sh", "-c", f"exec \"$@\" 2>'{path}'", "sh", str(COMMAND)]


def command_line(folder: Path, *options: str) -> list[str]:
    """The arguments of `cosmos-serve` for a server with all that it keeps in `folder`."""
    settings = settings_in(folder)
    folders = ["--weights", str(settings.weights), "--data", str(settings.data)]
    return ["serve", *folders, "--devices", "cpu", "--port", "0", *options]


SCRIPTED = {
    "COSMOS_WORKER": "workers:ScriptedWorker",
    "PYTHONPATH": str(SUPPORT),
    "COSMOS_FETCH_ALLOW_NETS": "127.0.0.0/8",
    "COSMOS_DRAIN_SECONDS": "0",
}
"""The environment of a server with scripted workers."""


def launch(
    folder: Path, *options: str, program: Sequence[str | Path] = (COMMAND,), **environment: str
) -> subprocess.Popen[str]:
    """Run `cosmos-serve serve` with a scripted worker; `program` may be one that wraps it."""
    return subprocess.Popen(
        [*program, *command_line(folder, *options)],
        env={**os.environ, **SCRIPTED, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def start_server(
    folder: Path, *options: str, program: Sequence[str | Path] | None = None, **environment: str
) -> RunningServer:
    """Run `cosmos-serve serve` with a scripted worker, and wait until it listens.

    It is started as `launch` does by `program`; without one it is forked, which is many times
    quicker and the same to all that speak to it.
    """
    process: subprocess.Popen[str] | ForkedProcess
    if program is None:
        arguments = command_line(folder, *options)
        process = fork_server().start(arguments, {**os.environ, **SCRIPTED, **environment})
    else:
        process = launch(folder, *options, program=program, **environment)
    assert process.stdout is not None
    urls = re.findall(r"https?://[^\s,]+", process.stdout.readline())
    return RunningServer(process, urls[0], urls[1] if len(urls) > 1 else None)


@contextmanager
def started(folder: Path, **environment: str) -> Iterator[RunningServer]:
    """A server as of `start_server`, which is killed at the end if it was not ended by then."""
    running = start_server(folder, **environment)
    try:
        yield running
    finally:
        assert running.process.stdout is not None
        if not running.process.stdout.closed:
            running.end(signal.SIGKILL)
