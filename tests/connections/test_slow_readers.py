"""A caller who does not take its answer does not keep its connection."""

import json
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import trustme
from servers import ENDPOINT, RunningServer, request_of, start_server

LARGE = 30_000_000
"""More than the buffers of both ends hold."""

AUTHORITY = trustme.CA()
TLS = ssl.create_default_context()
AUTHORITY.configure_trust(TLS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    certificate = AUTHORITY.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    files = ["--tls-cert", f"{folder}/cert.pem", "--tls-key", f"{folder}/key.pem"]
    running = start_server(
        folder,
        *("--tls-port", "0", *files),
        COSMOS_WRITE_TIMEOUT="1",
        # Nothing else ends a connection.
        COSMOS_READ_TIMEOUT="3600",
        COSMOS_KEEP_ALIVE="3600",
    )
    yield running
    assert running.end() == 0


@pytest.fixture(scope="module")
def asked(server: RunningServer) -> dict[str, bytes]:
    """What is asked for, by the kind of answer: all but one are larger than buffers are."""
    uploaded = [
        httpx.post(f"{server.http}/files/upload", content=bytes(size), timeout=60).json()
        for size in (LARGE, 1_000_000)
    ]
    file, short = (urlsplit(answer["access_url"]).path for answer in uploaded)
    stream = json.dumps(request_of(f"bytes {LARGE}", sync_mode=True)).encode()
    head = b"POST /run/%s/stream HTTP/1.1\r\nhost: localhost\r\n" % ENDPOINT.encode()
    document = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"
    return {
        # The system takes all of it, and the server is done.
        "short file": f"GET {short} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode(),
        "file": f"GET {file} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode(),
        "file and no more": (
            f"GET {file} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()
        ),
        "stream": head + b"content-length: %d\r\n\r\n" % len(stream) + stream,
        "pipelined": document * (LARGE // 50_000),
    }


def caller(url: str) -> socket.socket:
    """A connection that can hold little of an answer."""
    parts = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((parts.hostname, parts.port))
    if parts.scheme == "http":
        return connection
    return TLS.wrap_socket(connection, server_hostname="127.0.0.1")


def is_kept(server: RunningServer, connection: socket.socket) -> bool:
    """Whether the server's process still has its end of a connection."""
    mine = connection.getsockname()
    there = psutil.Process(server.process.pid).net_connections("tcp")
    return any(each.raddr == mine for each in there)


@pytest.mark.parametrize("port", ["http", "https"])
@pytest.mark.parametrize("kind", ["short file", "file", "file and no more", "stream", "pipelined"])
def test_a_caller_who_takes_nothing_is_cut_off(
    server: RunningServer, asked: dict[str, bytes], kind: str, port: str
) -> None:
    assert server.https is not None
    with caller({"http": server.http, "https": server.https}[port]) as connection:
        connection.sendall(asked[kind])
        connection.recv(1)

        while is_kept(server, connection):
            pass


@pytest.mark.parametrize("port", ["http", "https"])
def test_a_caller_who_takes_a_little_now_and_then_is_cut_off(
    server: RunningServer, asked: dict[str, bytes], port: str
) -> None:
    assert server.https is not None
    with caller({"http": server.http, "https": server.https}[port]) as connection:
        connection.sendall(asked["file"])

        while is_kept(server, connection):
            connection.recv(2048)


def test_a_caller_who_takes_its_time_gets_everything(
    server: RunningServer, asked: dict[str, bytes]
) -> None:
    """In all more than the limit, and never so long at once."""
    with caller(server.http) as connection:
        connection.sendall(asked["file and no more"])
        size = 0
        while taken := connection.recv(65536):
            size += len(taken)

    assert size > LARGE
