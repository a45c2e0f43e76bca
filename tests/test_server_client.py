"""The endpoint page's own samples, by curl and the real fal-client, against a real server.

The server is a process of its own, started by `cosmos-serve serve` with HTTP and HTTPS, a key and
a scripted worker. The samples are as the page prints them but for the hosts.
"""

import ast
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import trustme
from servers import (
    APP,
    ENDPOINT,
    RunningServer,
    picture,
    request_of,
    start_server,
    write_small_checkpoint,
)

from server.schemas import EXAMPLE_IMAGE, EXAMPLE_PROMPT

KEY = "me:s3cret"
AUTHORIZED = {"authorization": f"Key {KEY}"}
SEVERAL_S = 20.0

CURL_SAMPLE = r"""curl --request POST \
  --url https://fal.run/fal-ai/cosmos-predict-2.5/image-to-video \
  --header "Authorization: Key $FAL_KEY" \
  --header "Content-Type: application/json" \
  --data '{
     "prompt": "PROMPT",
     "image_url": "IMAGE"
   }'
"""

PYTHON_SAMPLE = """import fal_client

def on_queue_update(update):
    if isinstance(update, fal_client.InProgress):
        for log in update.logs:
           print(log["message"])

result = fal_client.subscribe(
    "fal-ai/cosmos-predict-2.5/image-to-video",
    arguments={
        "prompt": "PROMPT",
        "image_url": "IMAGE"
    },
    with_logs=True,
    on_queue_update=on_queue_update,
)
print(result)
"""


class _Pictures(BaseHTTPRequestHandler):
    """Stands in for the host that the samples' picture is on."""

    def do_GET(self) -> None:
        data = picture(400, 300)
        self.send_response(200 if self.path.endswith(".jpg") else 404)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def pictures() -> Iterator[str]:
    """The URL of a server of pictures."""
    with HTTPServer(("127.0.0.1", 0), _Pictures) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, cert.pem and key.pem for localhost."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    leaf.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    return folder


@pytest.fixture(scope="module")
def server(tls: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    options = ["--tls-cert", tls / "cert.pem", "--tls-key", tls / "key.pem", "--tls-port", "0"]
    running = start_server(folder, *map(str, options), COSMOS_KEY=KEY)
    yield running
    assert running.end() == 0


def sample(text: str, pictures: str, prompt: str = EXAMPLE_PROMPT) -> str:
    image = EXAMPLE_IMAGE.replace("https://v3b.fal.media", pictures)
    return text.replace("PROMPT", prompt).replace("IMAGE", image)


def wait_for(status_url: str, status: str) -> None:
    while httpx.get(status_url).json()["status"] != status:
        time.sleep(0.02)


def python_client(code: str, server: RunningServer, tls: Path, key: str = KEY) -> list[str]:
    """Run code that uses fal-client; the lines that it prints."""
    environment = {
        "FAL_KEY": key,
        "FAL_RUN_HOST": f"{server.https_host}/run",
        "FAL_QUEUE_RUN_HOST": f"{server.https_host}/queue",
        "SSL_CERT_FILE": str(tls / "ca.pem"),
    }
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_the_pages_curl_sample_gets_a_video(server: RunningServer, pictures: str) -> None:
    command = sample(CURL_SAMPLE, pictures).replace("https://fal.run", server.http)
    ran = subprocess.run(
        ["bash", "-c", command],
        env=os.environ | {"FAL_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=60,
    )
    output = json.loads(ran.stdout)

    video = httpx.get(output["video"]["url"])
    assert len(video.content) == output["video"]["file_size"]
    assert video.headers["content-type"] == "video/mp4"
    assert isinstance(output["seed"], int)


def test_the_pages_python_sample_gets_a_video(
    server: RunningServer, pictures: str, tls: Path
) -> None:
    *_, printed = python_client(sample(PYTHON_SAMPLE, pictures), server, tls)
    result: dict[str, Any] = ast.literal_eval(printed)

    assert result["video"]["url"].startswith(f"https://{server.https_host}/files/")
    assert isinstance(result["seed"], int)
    url = result["video"]["url"].replace(f"https://{server.https_host}", server.http)
    assert len(httpx.get(url).content) == result["video"]["file_size"]


def test_the_python_sample_prints_the_log_while_the_job_runs(
    server: RunningServer, pictures: str, tls: Path
) -> None:
    printed = python_client(sample(PYTHON_SAMPLE, pictures, "sleep 0.04"), server, tls)

    assert "Reading the prompt" in printed
    assert any(line.startswith("Step ") and " of 35, 0.04 s a step" in line for line in printed)


PYTHON_CALLS = """
import json
import fal_client

endpoint = "fal-ai/cosmos-predict-2.5/image-to-video"
arguments = json.loads('''ARGUMENTS''')
print(json.dumps(fal_client.run(endpoint, arguments=arguments)["seed"]))

handle = fal_client.submit(endpoint, arguments=arguments)
print(json.dumps([handle.request_id, handle.status_url, handle.cancel_url]))
print(json.dumps(handle.get()["seed"]))
print(json.dumps(type(handle.status(with_logs=True)).__name__))

try:
    fal_client.subscribe(endpoint, arguments=arguments | {"num_frames": 8})
except fal_client.FalClientHTTPError as error:
    print(json.dumps([error.status_code, error.message[0]["type"]]))

handle = fal_client.submit(endpoint, arguments=arguments | {"prompt": "sleep 3600"})
handle.cancel()
try:
    handle.get()
except fal_client.FalClientHTTPError as error:
    print(json.dumps([error.status_code, error.error_type]))
"""


def test_fal_client_runs_submits_fails_and_cancels(server: RunningServer, tls: Path) -> None:
    code = PYTHON_CALLS.replace("ARGUMENTS", json.dumps(request_of(seed=7)))
    ran, urls, got, status, invalid, cancelled = map(json.loads, python_client(code, server, tls))

    request = f"https://{server.https_host}/queue/{APP}/requests/{urls[0]}"
    assert urls[1:] == [f"{request}/status", f"{request}/cancel"]
    assert (ran, got, status) == (7, 7, "Completed")
    assert invalid == [422, "greater_than_equal"]
    assert cancelled == [499, "client_cancelled"]


def test_fal_client_with_a_wrong_key_is_told_so(server: RunningServer, tls: Path) -> None:
    code = (
        "import fal_client\n"
        "try:\n"
        f"    fal_client.run({ENDPOINT!r}, arguments={{}})\n"
        "except fal_client.FalClientHTTPError as error:\n"
        "    print(error.status_code, error.message)\n"
    )

    printed = python_client(code, server, tls, key="me:wrong")

    assert printed == ["401 The key is not one of this server's."]


def test_a_caller_who_goes_away_cancels_the_run(server: RunningServer) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.http}/run/{ENDPOINT}",
            json=request_of("sleep 3600"),
            headers=AUTHORIZED,
            timeout=httpx.Timeout(SEVERAL_S, read=1.0),
        )

    # The one worker is free again, or this would wait behind the abandoned run for ever.
    answer = httpx.post(
        f"{server.http}/run/{ENDPOINT}",
        json=request_of(),
        headers=AUTHORIZED,
        timeout=SEVERAL_S,
    )
    assert answer.status_code == 200


def test_the_server_does_not_say_what_it_runs_on(server: RunningServer) -> None:
    assert "server" not in httpx.get(f"{server.http}/health/live").headers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_its_workers(tmp_path: Path, number: signal.Signals) -> None:
    server = start_server(tmp_path)
    busy = httpx.post(f"{server.http}/queue/{ENDPOINT}", json=request_of("sleep 3600")).json()
    wait_for(busy["status_url"], "IN_PROGRESS")
    workers = psutil.Process(server.process.pid).children(recursive=True)
    assert workers

    assert server.end(number) == 0

    assert psutil.wait_procs(workers, timeout=SEVERAL_S)[1] == []


def test_a_killed_server_loses_no_job(tmp_path: Path) -> None:
    first = start_server(tmp_path)
    job = httpx.post(f"{first.http}/queue/{ENDPOINT}", json=request_of("sleep 0.5", seed=11)).json()
    wait_for(job["status_url"], "IN_PROGRESS")
    first.end(signal.SIGKILL)

    second = start_server(tmp_path)
    # The job's own URLs name the port of the server that is gone.
    request = job["response_url"].replace(first.http, second.http)
    wait_for(f"{request}/status", "COMPLETED")
    assert httpx.get(request).json()["seed"] == 11
    assert second.end() == 0


def refused_start(folder: Path, *options: str) -> str:
    """What a server that cannot start says: one line, and no traceback."""
    weights = write_small_checkpoint(folder / "checkpoint")
    command = Path(sys.executable).with_name("cosmos-serve")
    folders = ["--weights", str(weights), "--data", str(folder / "data")]
    ran: subprocess.CompletedProcess[str] = subprocess.run(
        [command, "serve", "--devices", "cpu", *folders, *options],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    return ran.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path, server: RunningServer) -> None:
    port = server.http.rpartition(":")[2]

    assert f"Cannot listen on 127.0.0.1 port {port}" in refused_start(tmp_path, "--port", port)


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path, tls: Path) -> None:
    cert, key = str(tls / "ca.pem"), str(tls / "key.pem")
    options = ["--port", "0", "--tls-cert", cert, "--tls-key", key, "--tls-port", "0"]

    assert f"The certificate {cert} cannot be used" in refused_start(tmp_path, *options)


def test_the_server_imports_no_torch() -> None:
    code = "import sys, server.listen, server.app; print(sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    modules = ast.literal_eval(ran.stdout)

    assert "server.dispatcher" in modules
    assert not {"torch", "diffusers", "transformers", "numpy"} & set(modules)
