"""A server from its start to its videos, as one who calls it over HTTP waits for them.

    python -m benchmarks.served [--weights DIR] [--steps 35 --steps 8] [--frames 93] [--out FILE]

The server is a process of its own, with a new data folder and one GPU, or the CPU. Each `--steps`
asks for one video, with a prompt that was not seen before. Without `--weights` a checkpoint of the
published sizes is written first, 17.7 GiB of random numbers: seconds and memory do not depend on
their values. Every video is saved as it ends.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import torch
import typer
from imageio_ffmpeg import count_frames_and_secs

from benchmarks.full_checkpoint import write_checkpoint
from benchmarks.full_size import FULL
from benchmarks.machine import MODEL_PACKAGES, SERVER_PACKAGES, describe
from pipeline.spec import Container

ENDPOINT = "fal-ai/cosmos-predict-2.5/image-to-video"
_SAMPLE = Path(__file__).parents[1] / "docs" / "sample" / "launch.jpg"
_SERVE = "from server.cli.main import main; raise SystemExit(main())"
_START_LIMIT_S, _STEP_LIMIT_S = 300.0, 120.0
"""How long to wait until the server is ready, and for the next event of a video."""


def main(
    weights: Annotated[
        Path | None, typer.Option(help="The checkpoint; one is made, if left out.")
    ] = None,
    steps: Annotated[list[int], typer.Option(help="Of one video each.")] = [35],  # noqa: B006
    frames: Annotated[int, typer.Option(help="Of each video.")] = 93,
    preview: Annotated[str, typer.Option(help="rgb, taehv or off.")] = "rgb",
    memory: Annotated[str, typer.Option(help="auto, resident, offload or stream.")] = "auto",
    output_type: Annotated[Container, typer.Option(help="Container.")] = Container.X264,
    out: Annotated[Path | None, typer.Option(help="Where the JSON goes.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Where the videos and the log go.")] = None,
) -> None:
    """Start a server, ask it for videos, and end it."""
    report: dict[str, Any] = describe((*MODEL_PACKAGES, *SERVER_PACKAGES))
    report |= {"preview": preview, "memory": memory, "videos": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if weights is None:
            weights = folder / "checkpoint"
            begun = time.perf_counter()
            write_checkpoint(weights, FULL, torch.device("cuda:0"))
            torch.cuda.empty_cache()
            report["write_s"] = time.perf_counter() - begun
        options = [f"--weights={weights}", f"--preview={preview}", f"--memory={memory}"]
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
        log = (keep or folder) / "server.log"
        with _serving(folder / "data", options, log) as (client, started):
            report |= started
            for number, count in enumerate(steps, 1):
                body = {
                    "prompt": f"The camera pans left, take {number}.",
                    "image_url": _data_uri(_SAMPLE),
                    "num_frames": frames,
                    "num_inference_steps": count,
                    "video_output_type": output_type,
                    "seed": 0,
                }
                report["videos"].append(_video(client, body, keep or folder, number))
                _save(report, out)
    print(json.dumps(report, indent=2))


@contextmanager
def _serving(
    data: Path, options: list[str], log: Path
) -> Iterator[tuple[httpx.Client, dict[str, Any]]]:
    """A client of a server that is ready, and how its start went; at the end the server is ended.

    Raises:
        RuntimeError: it ended before it was ready, or was not ready in time.
    """
    port = _free_port()
    command = [sys.executable, "-c", _SERVE, "serve", f"--data={data}", f"--port={port}"]
    begun = time.perf_counter()
    with log.open("wb") as lines:
        server = subprocess.Popen(
            [*command, "--guardrail=off", *options],
            stdout=lines,
            stderr=subprocess.STDOUT,
            env=os.environ | {"COSMOS_AUTH": "off"},
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_STEP_LIMIT_S) as client:
            ready = _wait_until_ready(client, server, log, begun)
            yield client, {"ready_s": time.perf_counter() - begun, "ready": ready}
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def _wait_until_ready(
    client: httpx.Client, server: "subprocess.Popen[bytes]", log: Path, begun: float
) -> Any:
    while time.perf_counter() - begun < _START_LIMIT_S:
        if server.poll() is not None:
            raise RuntimeError(f"The server ended:\n{log.read_text()[-3000:]}")
        try:
            answer = client.get("/health/ready")
        except httpx.ConnectError:
            pass
        else:
            if answer.status_code == 200:
                return answer.json()
        time.sleep(0.1)
    raise RuntimeError(f"The server was not ready in time:\n{log.read_text()[-3000:]}")


def _video(client: httpx.Client, body: dict[str, Any], folder: Path, number: int) -> dict[str, Any]:
    """Submit, follow the stream of the status, and fetch the file; seconds since the submit."""
    begun = time.perf_counter()
    submitted = client.post(f"/queue/{ENDPOINT}", json=body).raise_for_status().json()
    video: dict[str, Any] = {
        "steps": body["num_inference_steps"],
        "frames": body["num_frames"],
        "submitted_s": time.perf_counter() - begun,
        "previews": 0,
    }
    status = {}
    query = {"logs": "1", "previews": "1"}
    with client.stream("GET", f"{submitted['status_url']}/stream", params=query) as stream:
        stream.raise_for_status()
        kind = "message"
        for line in stream.iter_lines():
            name, _, value = line.partition(":")
            if name == "event":
                kind = value.strip()
            elif not line:
                kind = "message"
            elif name == "data" and kind == "preview":
                video["previews"] += 1
                video.setdefault("first_preview_s", time.perf_counter() - begun)
            elif name == "data" and kind == "message":
                status = json.loads(value)
                seen = f"{status['status'].lower()}_s"
                video.setdefault(seen, time.perf_counter() - begun)
    result = client.get(submitted["response_url"]).raise_for_status().json()
    content = client.get(result["video"]["url"]).raise_for_status().content
    video["fetched_s"] = time.perf_counter() - begun
    file = folder / f"{number}-{result['video']['file_name']}"
    file.write_bytes(content)
    video |= {"bytes": len(content), "frames_in_file": count_frames_and_secs(file)[0]}
    return video | {"metrics": status["metrics"]}


def _data_uri(picture: Path) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _save(report: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
