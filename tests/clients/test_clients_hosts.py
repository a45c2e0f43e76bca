"""Clients that know fal by fixed names, on a machine where those names lead to the server.

The names are mapped in a mount namespace of each client's own; nothing outside sees it. Versions
that must not meet have environments of their own, made by `make test-slow`.
"""

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client_programs import (
    ENVIRONMENTS,
    needed_root,
    not_here,
    run_node,
    run_program,
    run_python,
)
from client_servers import KEY, ClientServer, serving_clients
from client_table import CAPABILITIES
from page_samples import CURL, JAVASCRIPT, PYTHON, printed
from servers import request_of

from server.cli.certificate_files import HOSTS_LINES

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(300)]

ADDRESS = "127.0.0.2"
NAMES = [name for line in HOSTS_LINES for name in line]

HEAD = """
import base64, json, os, tempfile
from urllib.request import urlopen

endpoint = "fal-ai/cosmos-predict-2.5/image-to-video"
arguments = json.loads('''ARGUMENTS''')

def show(*values):
    print(json.dumps(values))

def is_at(url, data):
    return urlopen(url).read() == data

picture = base64.b64decode(arguments["image_url"].partition(",")[2])
"""

FAL_CLIENT = """
import fal_client

updates = []
result = fal_client.subscribe(
    endpoint, arguments=arguments, with_logs=True, on_queue_update=updates.append
)
show(result["seed"], len(urlopen(result["video"]["url"]).read()))
show(any(log["message"].startswith("Step") for log in updates[-1].logs))

for size in (10, 101 * 2**20):
    data = os.urandom(size)
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(data)
        file.flush()
        show(is_at(fal_client.upload_file(file.name), data))

url = fal_client.upload(picture, "image/png")
show(urlopen(url).headers["content-type"])
arguments["image_url"] = url
show(fal_client.run(endpoint, arguments=arguments)["seed"])

handle = fal_client.submit(endpoint, arguments=arguments | {"prompt": "sleep 3600"})
handle.cancel()
try:
    handle.get()
except Exception as error:
    show(type(error).__name__, str(error))

try:
    fal_client.subscribe(endpoint, arguments=arguments | {"num_frames": 8})
except Exception as error:
    show("num_frames" in str(error))

*_, last = fal_client.stream(endpoint, arguments=arguments)
show(last["seed"])
"""

NEWEST = """
from PIL import Image

url = fal_client.upload_image(Image.new("RGB", (96, 64)))
show(urlopen(url).headers["content-type"])
show(is_at(fal_client.SyncClient().upload(b"abc", "text/plain", repository="fal"), b"abc"))
"""


@pytest.fixture(scope="module")
def mapped_server(
    certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClientServer]:
    """A server on the port that the names are looked for at."""
    needed_root()
    folder = tmp_path_factory.mktemp("mapped-server")
    with serving_clients(folder, certificates, "--host", ADDRESS, tls_port=443) as server:
        yield server


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A hosts file as `cosmos-serve certs` prints it."""
    file = tmp_path_factory.mktemp("hosts") / "hosts"
    lines = ["127.0.0.1 localhost", *(f"{ADDRESS} {' '.join(names)}" for names in HOSTS_LINES)]
    file.write_text("\n".join(lines) + "\n")
    return str(file)


@pytest.fixture
def environment(mapped_server: ClientServer) -> dict[str, str]:
    """All that a client is told: its key, and whom to trust."""
    return {
        "FAL_KEY": KEY,
        "SSL_CERT_FILE": str(mapped_server.certificates / "bundle.pem"),
        "NODE_EXTRA_CA_CERTS": str(mapped_server.certificates / "ca.pem"),
        "OFFLINE_ALSO": ",".join(NAMES),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


@pytest.fixture
def calls(environment: dict[str, str], hosts: str) -> Callable[..., list[Any]]:
    """Run code with a client's environment; the values that it shows."""

    def run(code: str, client: str | None = None) -> list[Any]:
        arguments = json.dumps(request_of("sleep 0.1", seed=7))
        whole = HEAD.replace("ARGUMENTS", arguments) + code
        python = {} if client is None else {"python": _python_of(client)}
        return [json.loads(line) for line in run_python(whole, environment, hosts=hosts, **python)]

    return run


def _python_of(client: str) -> str:
    python = ENVIRONMENTS / client / "bin" / "python"
    if not python.exists():
        not_here(f"{client} is not installed: run `make test-slow`.")
    return str(python)


def test_the_pages_samples_run_as_they_are_printed(
    environment: dict[str, str], hosts: str, pictures: str
) -> None:
    shell = run_program(["bash", "-eu"], environment, _trusting(printed(CURL, pictures)), hosts)
    sample = printed(PYTHON, pictures, "sleep 0.04")
    python = run_python(sample, environment, hosts=hosts)
    node = run_node(printed(JAVASCRIPT, pictures), environment, hosts)

    files = "https://v3.fal.media/files/"
    assert json.loads(shell[-1])["video"]["url"].startswith(files)
    assert "Reading the prompt" in python
    assert ast.literal_eval(python[-1])["video"]["url"].startswith(files)
    assert any(files in line for line in node)


def _trusting(command: str) -> str:
    """curl reads SSL_CERT_FILE only where it is built with OpenSSL, so it is told by an option."""
    return command.replace("curl ", 'curl --cacert "$SSL_CERT_FILE" ')


@pytest.mark.shows(
    "fal-client 1.0.3", "submit", "logs", "result", "download", "cancel", "upload", "streaming"
)
def test_fal_client_needs_no_setting(calls: Callable[..., list[Any]]) -> None:
    *shown, cancelled, invalid, streamed, picture, stored = calls(FAL_CLIENT + NEWEST)

    assert shown == [[7, 65536], [True], [True], [True], ["image/png"], [7]]
    assert cancelled == ["FalClientHTTPError", "Request cancelled by the client."]
    assert (invalid, streamed) == ([True], [7])
    assert picture == ["image/jpeg"]
    assert stored == [True]


@pytest.mark.shows("fal-client 0.5.9", *CAPABILITIES)
def test_fal_client_of_old_needs_no_setting(calls: Callable[..., list[Any]]) -> None:
    *shown, cancelled, invalid, streamed = calls(FAL_CLIENT, "fal-client@0.5.9")

    assert shown == [[7, 65536], [True], [True], [True], ["image/png"], [7]]
    assert cancelled == ["FalClientError", "Request cancelled by the client."]
    assert (invalid, streamed) == ([True], [7])


SDK = """
import httpx
from fal.toolkit import File
from fal import apps

app, path = endpoint.rsplit("/", 1)
show(apps.run(app, path=path, arguments=arguments)["seed"])
handle = apps.submit(app, path=path, arguments=arguments)
events = [type(event).__name__ for event in handle.iter_events(logs=True)]
show(*dict.fromkeys(events))
status = handle.status(logs=True)
show(type(status).__name__, status.logs[0]["message"])
result = handle.get()
show(result["seed"], len(urlopen(result["video"]["url"]).read()))

lines = list(apps.stream(app, path=f"{path}/stream", arguments=arguments))
show(json.loads(lines[-1].removeprefix("data: "))["seed"])

handle = apps.submit(app, path=path, arguments=arguments | {"prompt": "sleep 3600"})
handle.cancel()
try:
    handle.get()
except httpx.HTTPStatusError as error:
    show(error.response.status_code)

handle = apps.submit(app, path=path, arguments=arguments | {"num_frames": 8})
try:
    handle.get()
except httpx.HTTPStatusError as error:
    show(error.response.status_code, error.response.json()["detail"][0]["loc"])

show(is_at(File.from_bytes(picture, content_type="image/png").url, picture))
"""


@pytest.mark.shows("fal 1.83.0", *CAPABILITIES)
def test_the_fal_sdk_runs_and_follows_jobs(calls: Callable[..., list[Any]]) -> None:
    ran, events, status, result, streamed, cancelled, invalid, uploaded = calls(SDK, "fal@1.83.0")

    assert ran == [7]
    assert set(events) <= {"Queued", "InProgress"}
    assert status[0] == "Completed"
    assert result == [7, 65536]
    assert streamed == [7]
    assert cancelled == [499]
    assert invalid == [422, ["body", "num_frames"]]
    assert uploaded == [True]


HUGGING_FACE = """
from huggingface_hub import InferenceClient
from huggingface_hub.hf_api import InferenceProviderMapping
from huggingface_hub.inference._providers import _common

# The Hub would be asked which model this is.
model = "nvidia/Cosmos-Predict2.5-2B"
_common.HARDCODED_MODEL_INFERENCE_MAPPING["fal-ai"][model] = InferenceProviderMapping(
    provider="fal-ai",
    hf_model_id=model,
    providerId=endpoint,
    task="image-to-video",
    status="live",
)
client = InferenceClient(provider="fal-ai", api_key=os.environ["FAL_KEY"])
show(len(client.image_to_video(picture, prompt="a red car", model=model)))
"""


@pytest.mark.shows("huggingface_hub 2.4.0", "submit", "result", "download")
def test_hugging_faces_client_gets_the_video_itself(calls: Callable[..., list[Any]]) -> None:
    assert calls(HUGGING_FACE, "huggingface_hub@2.4.0") == [[65536]]
