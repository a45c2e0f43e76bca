"""The main job with nothing replaced: a photograph and a prompt become a video, by both ways in.

The one test that starts the server with the real worker and speaks to it with the real fal-client.
Neither the server, nor its worker, nor the command looks for a host beyond this machine: one that
does is ended by `tests/clients/offline`.
"""

import base64
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
import trustme
from client_programs import OFFLINE
from paths import SAMPLE
from servers import ENDPOINT, RunningServer, start_server
from stand_ins import stand_in

from pipeline.spec import FPS

PHOTOGRAPH = SAMPLE
PROMPT = "A rocket lifts off."
FRAMES, STEPS, SEED = 10, 3, 7
WATCHED = {"PYTHONPATH": str(OFFLINE), "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
"""For programs that are to ask nothing of the network, though nothing tells them not to."""

PROGRAM = f"""
import json, sys
import fal_client

lines = []

def on_queue_update(update):
    # The last one, of a job that is complete, has the whole log.
    if isinstance(update, fal_client.InProgress | fal_client.Completed) and update.logs:
        lines[:] = [log["message"] for log in update.logs]

result = fal_client.subscribe(
    "{ENDPOINT}",
    arguments=json.load(sys.stdin),
    with_logs=True,
    on_queue_update=on_queue_update,
)
print(json.dumps([result, lines]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a checkpoint, and a certificate for localhost with its authority."""
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "checkpoint").symlink_to(stand_in())
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[RunningServer]:
    tls = ["--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem", "--tls-port", "0"]
    environment = WATCHED | {"COSMOS_WORKER": "server.workers.gpu:GpuWorker"}
    running = start_server(folder, *map(str, tls), **environment)
    yield running
    assert running.end() == 0


def test_a_program_that_is_watched_ends_where_it_looks_elsewhere() -> None:
    look = "import socket; socket.getaddrinfo('huggingface.co', 443)"
    ended = subprocess.run(
        [sys.executable, "-c", look], env=os.environ | WATCHED, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (86, "This program looked for huggingface.co.\n")


def test_http_and_the_command_line_make_the_same_video_of_a_photograph(
    server: RunningServer, folder: Path
) -> None:
    result, lines = _over_http(server, folder)
    video = httpx.get(result["video"]["url"], verify=_trusting(folder)).content
    assert result["seed"] == SEED
    assert any("Step" in line and "of 3" in line for line in lines)
    out = folder / "made.mp4"
    _from_the_command_line(folder, out)
    assert out.read_bytes() == video
    with av.open(str(out)) as opened:
        (stream,) = opened.streams
        frames = list(opened.decode(video=0))
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == FPS
    assert [(f.width, f.height) for f in frames] == [(96, 64)] * FRAMES


def _over_http(server: RunningServer, folder: Path) -> tuple[dict[str, Any], list[str]]:
    image = base64.b64encode(PHOTOGRAPH.read_bytes()).decode()
    arguments = {
        "prompt": PROMPT,
        "image_url": f"data:image/jpeg;base64,{image}",
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "seed": SEED,
    }
    environment = {
        "FAL_KEY": "any:thing",
        "FAL_RUN_HOST": f"{server.https_host}/run",
        "FAL_QUEUE_RUN_HOST": f"{server.https_host}/queue",
        "SSL_CERT_FILE": str(folder / "ca.pem"),
    }
    answer = _run([sys.executable, "-c", PROGRAM], json.dumps(arguments), **environment)
    result, lines = json.loads(answer)
    return result, lines


def _from_the_command_line(folder: Path, out: Path) -> None:
    command = Path(sys.executable).with_name("cosmos-serve")
    numbers = {"--frames": FRAMES, "--steps": STEPS, "--seed": SEED}
    options = [str(part) for option in numbers.items() for part in option]
    weights = ["--weights", str(folder / "checkpoint"), "--devices", "cpu"]
    _run([command, "generate", PHOTOGRAPH, PROMPT, "-o", out, *options, *weights], **WATCHED)


def _run(command: list[Any], text: str = "", **environment: str) -> str:
    run = subprocess.run(
        command, input=text, env=os.environ | environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def _trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=folder / "ca.pem")
