"""The image, built and run as an operator does who trusts it with as little as can be."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from client_programs import run_program
from containers import (
    Container,
    build,
    debian,
    image_extras,
    podman,
    requirements_of,
    running,
    volume,
    wheelhouse,
)
from paths import ROOT, SAMPLE
from servers import APP, ENDPOINT
from stand_ins import stand_in

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]

IMAGE = "localhost/cosmos-serve:test"
ANY_USER = "--user=1234567:0"
LOCKED_UP = (
    *("--network=none", "--read-only", "--tmpfs=/tmp", "--cap-drop=all"),
    *("--security-opt=no-new-privileges", "--pids-limit=512", "--memory=6g"),
)
SETTINGS = {
    "DEVICES": "cpu",
    "TLS_PORT": "8443",
    "TLS_CERT": "/certificates/cert.pem",
    "TLS_KEY": "/certificates/key.pem",
}
STOP_S = 30

CLIENT = f"""
import json
import fal_client

arguments = {{
    "prompt": "The camera pans right.",
    "num_frames": 9,
    "num_inference_steps": 2,
    "image_url": fal_client.encode_file({str(SAMPLE)!r}),
}}

def video():
    return fal_client.subscribe({ENDPOINT!r}, arguments)["video"]

def submit(**changes):
    return fal_client.submit({ENDPOINT!r}, arguments | changes).request_id
"""


@pytest.fixture(scope="module")
def image() -> str:
    """On Debian 12, for whose Python there is a build of torch without CUDA."""
    build(IMAGE, debian("bookworm"), wheelhouse([*requirements_of(*image_extras()), "hatchling"]))
    return IMAGE


@dataclass(frozen=True, slots=True)
class Served:
    """A server in a container, and the file of the authorities that its clients trust."""

    container: Container
    bundle: Path

    @property
    def key(self) -> str:
        return self.container.exec("cat", "/data/key")

    def curl(self, path: str, *options: str) -> str:
        """What the server answers, whatever its status."""
        key, url = f"Authorization: Key {self.key}", f"http://127.0.0.1:8000{path}"
        return "\n".join(self._beside("curl", "--silent", "--header", key, *options, url))

    def call(self, expression: str) -> Any:
        """The value of an expression of fal-client's code."""
        return json.loads(self._beside(sys.executable, "-", code=CLIENT + expression)[-1])

    def is_ready(self, starts: int) -> bool:
        """Whether it has listened so many times, and is ready now."""
        assert podman("inspect", "--format={{.State.Running}}", self.container.name) == "true"
        listens = self.container.logs().count("listens on") == starts
        return listens and json.loads(self.curl("/health/ready"))["status"] == "ready"

    def status_of(self, job: str) -> str:
        status: str = json.loads(self.curl(f"/queue/{APP}/requests/{job}/status"))["status"]
        return status

    def _beside(self, *command: str, code: str = "") -> list[str]:
        environment = {
            "FAL_KEY": self.key,
            "FAL_RUN_HOST": "localhost:8443/run",
            "FAL_QUEUE_RUN_HOST": "localhost:8443/queue",
            "SSL_CERT_FILE": str(self.bundle),
        }
        return run_program([*self.container.beside(), *command], environment, code)


@pytest.fixture(scope="module")
def served(image: str) -> Iterator[Served]:
    """On the CPU, with a small checkpoint, and with certificates that the image has made."""
    with ExitStack() as stack:
        data, tls = (stack.enter_context(volume(f"cosmos-test-{name}")) for name in ("data", "tls"))
        certificates = f"--volume={tls}:/certificates"
        podman("run", "--rm", *LOCKED_UP, ANY_USER, certificates, image, "certs", "/certificates")
        container = stack.enter_context(
            running(
                "cosmos-test",
                *LOCKED_UP,
                ANY_USER,
                f"{certificates}:ro",
                f"--volume={data}:/data",
                f"--volume={stand_in()}:/weights:ro",
                *(f"--env=COSMOS_{name}={value}" for name, value in SETTINGS.items()),
                image,
            )
        )
        folder = podman("volume", "inspect", "--format={{.Mountpoint}}", tls)
        yield Served(container, Path(folder, "bundle.pem"))


def wait_until_ready(server: Served, starts: int = 1) -> None:
    while not server.is_ready(starts):
        time.sleep(0.5)


def wait_for(server: Served, job: str, status: str) -> None:
    while server.status_of(job) != status:
        time.sleep(0.2)


def test_a_video_is_made_and_a_server_that_was_stopped_goes_on(served: Served) -> None:
    name = served.container.name
    wait_until_ready(served)
    podman("healthcheck", "run", name)
    assert "docker exec CONTAINER cat /data/key" in served.container.logs()
    video = served.call("print(json.dumps(video()))")
    assert video["content_type"] == "video/mp4"

    job = served.call("print(json.dumps(submit(num_frames=45, num_inference_steps=40)))")
    wait_for(served, job, "IN_PROGRESS")
    key, began = served.key, time.monotonic()
    podman("stop", f"--time={STOP_S}", name)
    assert time.monotonic() - began < STOP_S
    assert podman("inspect", "--format={{.State.ExitCode}}", name) == "0"

    podman("start", name)
    wait_until_ready(served, starts=2)
    assert served.key == key
    path = video["url"].removeprefix("https://localhost:8443")
    size = served.curl(path, "--output", "/dev/null", "--write-out", "%{size_download}")
    assert int(size) == video["file_size"]
    wait_for(served, job, "COMPLETED")
    assert "video" in json.loads(served.curl(f"/queue/{APP}/requests/{job}"))


def test_the_wheel_has_the_files_of_the_page(served: Served) -> None:
    folder = ROOT / "server" / "api" / "page"
    for name in ("main.js", "style.css", "views/operator.js", "vendor/preact.js"):
        options = ["--output", "/dev/null", "--write-out", "%{http_code} %{size_download}"]
        size = (folder / name).stat().st_size
        assert served.curl(f"/page/{name}", *options) == f"200 {size}"


@pytest.fixture
def of_root(tmp_path: Path) -> Path:
    """A folder that only root may write."""
    folder = tmp_path / "of-root"
    folder.mkdir(mode=0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    tmp_path.chmod(0o755)
    return folder


def test_a_start_without_a_gpu_fails_unless_the_cpu_is_asked_for(image: str) -> None:
    weights = f"--volume={stand_in()}:/weights:ro"

    said = podman("run", "--rm", *LOCKED_UP, weights, image, fails=True)

    assert "no NVIDIA GPU was found here. A container is given them by `--gpus all`" in said


def test_a_data_folder_of_root_is_named_with_the_user_and_the_command(
    image: str, of_root: Path
) -> None:
    mounted = [f"--volume={stand_in()}:/weights:ro", f"--volume={of_root}:/data"]

    said = podman(
        "run", "--rm", *LOCKED_UP, *mounted, "--env=COSMOS_DEVICES=cpu", image, fails=True
    )

    assert "/data belongs to uid 0, and this program runs as uid 10001" in said
    assert "run `chown -R 10001 /data` as root" in said


def test_weights_that_are_to_come_need_a_folder_that_can_be_written(
    image: str, of_root: Path
) -> None:
    said = podman(
        *("run", "--rm", *LOCKED_UP, f"--volume={of_root}:/weights"),
        *("--env=COSMOS_DEVICES=cpu", "--env=COSMOS_GUARDRAIL=off", image),
        fails=True,
    )

    assert "run `chown -R 10001 /weights` as root" in said


def test_triton_finds_what_it_compiles_with(image: str) -> None:
    compile = "echo | gcc -shared -fPIC -include Python.h $(python3-config --includes) -x c - -o "

    podman("run", "--rm", *LOCKED_UP, "--entrypoint=sh", image, "-c", f"{compile} /tmp/a.so")


def test_the_image_holds_what_is_needed_and_no_more(image: str) -> None:
    config = json.loads(podman("image", "inspect", "--format={{json .Config}}", image))
    in_opt = podman("run", "--rm", "--entrypoint=ls", image, "/opt").split()
    python = ["run", "--rm", "--entrypoint=python3", image]

    assert config["User"] == "10001:0"
    assert config["Volumes"].keys() == {"/data", "/weights"}
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert in_opt == ["constraints.txt", "cosmos-serve", "dist", "requirements.txt"]
    podman(*python, "-c", "import server.app, torch, diffusers")
    podman(*python, "-c", "import pytest", fails=True)
