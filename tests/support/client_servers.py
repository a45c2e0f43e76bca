"""A server as a user starts it, for the clients of others: HTTP, HTTPS, a key, scripted worker."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from servers import RunningServer, picture, start_server, two_checkpoints

KEY = "me:s3cret"


@dataclass(frozen=True, slots=True)
class ClientServer:
    """A running server, and what its clients are told of it."""

    running: RunningServer
    certificates: Path
    folder: Path

    @property
    def http(self) -> str:
        """Scheme, host and port, by a name and not a number."""
        return self.running.http.replace("127.0.0.1", "localhost")

    @property
    def https(self) -> str:
        """The same for HTTPS."""
        return f"https://{self.running.https_host}"

    def at(self, port: int, other: int) -> "ClientServer":
        """The server as it is reached when its `port` is reached by another."""
        running = self.running
        http, https = (
            url and url.replace(f":{port}", f":{other}") for url in (running.http, running.https)
        )
        assert http is not None
        return replace(self, running=replace(running, http=http, https=https))

    @property
    def python(self) -> Mapping[str, str]:
        """The environment that points fal-client here."""
        host = self.running.https_host
        return {
            "FAL_KEY": KEY,
            "FAL_RUN_HOST": f"{host}/run",
            "FAL_QUEUE_RUN_HOST": f"{host}/queue",
            "SSL_CERT_FILE": str(self.certificates / "bundle.pem"),
        }

    @property
    def node(self) -> Mapping[str, str]:
        """The environment of the JavaScript clients; what points them here is in their code."""
        return {
            "FAL_KEY": KEY,
            "COSMOS_URL": self.http,
            "NODE_EXTRA_CA_CERTS": str(self.certificates / "ca.pem"),
        }

    def jobs_with_seed(self, seed: int) -> int:
        """How many jobs the clients made: what they do not say when they send a request again."""
        with closing(sqlite3.connect(self.folder / "data" / "jobs.sqlite3")) as database:
            query = "SELECT count(*) FROM jobs WHERE json_extract(input, '$.spec.seed') = ?"
            return int(database.execute(query, (seed,)).fetchone()[0])


@contextmanager
def serving_clients(
    folder: Path, certificates: Path, *options: str, tls_port: int = 0, **environment: str
) -> Iterator[ClientServer]:
    """A server with HTTP, HTTPS and a key, which keeps its data in `folder`."""
    cert, key = certificates / "cert.pem", certificates / "key.pem"
    tls = ["--tls-cert", str(cert), "--tls-key", str(key), "--tls-port", str(tls_port)]
    running = start_server(folder, *tls, *options, COSMOS_KEY=KEY, **environment)
    yield ClientServer(running, certificates, folder)
    assert running.end() == 0


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `cosmos-serve certs` makes it, for localhost and fal's hosts."""
    folder = tmp_path_factory.mktemp("tls")
    command = str(Path(sys.executable).with_name("cosmos-serve"))
    subprocess.run([command, "certs", str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def client_server(
    certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClientServer]:
    """One server for all the clients; their jobs do not meet, but they share its one worker."""
    folder = tmp_path_factory.mktemp("client-server")
    weights = ["--weights", str(two_checkpoints(folder))]
    with serving_clients(folder, certificates, *weights) as server:
        yield server


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


@pytest.fixture(scope="session")
def pictures() -> Iterator[str]:
    """The URL of a server of pictures."""
    with HTTPServer(("127.0.0.1", 0), _Pictures) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
