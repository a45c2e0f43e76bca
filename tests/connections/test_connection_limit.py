"""Connections count from `accept` to `close`, on both ports, and cost no more than is kept free."""

import asyncio
import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import trustme
from raw_http import answer_on, assert_refused, connected, is_closed
from servers import COMMAND, ENDPOINT, RunningServer, launch, start_server
from structlog.testing import capture_logs

from server.connections.descriptors import PER_CONNECTION, RESERVED
from server.connections.listener import (
    LEAVING_AT_ONCE,
    REFUSED_AT_ONCE,
    Connections,
    Listener,
    on_loop_error,
)

LIVE = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n"
HEAD = (
    f"POST /run/{ENDPOINT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n"
    "expect: 100-continue\r\n\r\n"
).encode()
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LIMIT = 3
MANY = LIMIT + LEAVING_AT_ONCE + 50

AUTHORITY = trustme.CA()
TLS = ssl.create_default_context()
AUTHORITY.configure_trust(TLS)


def until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.02)


def live(connection: socket.socket) -> int:
    connection.sendall(LIVE + b"\r\n")
    return answer_on(connection).status


def begin(connection: socket.socket) -> None:
    """Send all but the body of a request, and wait until that is what the server waits for."""
    connection.sendall(HEAD)
    assert connection.recv(len(CONTINUE), socket.MSG_WAITALL) == CONTINUE


def finish(connection: socket.socket) -> int:
    connection.sendall(b"{}")
    return answer_on(connection, "POST").status


def held(server: RunningServer) -> int:
    """How many connections the server has descriptors for."""
    sockets = psutil.Process(server.process.pid).net_connections("tcp")
    return len([each for each in sockets if each.status != psutil.CONN_LISTEN])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """A server with few connections on two ports."""
    certificate = AUTHORITY.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    files = ["--tls-cert", f"{tmp_path}/cert.pem", "--tls-key", f"{tmp_path}/key.pem"]
    running = start_server(tmp_path, "--tls-port", "0", *files, COSMOS_CONNECTION_LIMIT=str(LIMIT))
    yield running
    assert running.end() == 0


@pytest.fixture
def at_once() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_where_all_have_requests_another_is_told_so_on_both_ports(
    server: RunningServer, at_once: ExitStack
) -> None:
    assert server.https is not None
    busy = [at_once.enter_context(connected(server.http)) for _ in range(LIMIT)]
    for connection in busy:
        begin(connection)
    for _ in range(LIMIT):
        with connected(server.http) as another:
            another.sendall(LIVE + b"\r\n")
            answer = answer_on(another)
            assert_refused(answer, 503, f"{LIMIT} connections")
            assert int(answer.headers["retry-after"]) > 0
    with (
        connected(server.https) as tcp,
        TLS.wrap_socket(tcp, server_hostname="127.0.0.1") as refused,
    ):
        assert_refused(answer_on(refused), 503, f"{LIMIT} connections")
    # Those that are there are served, and make room when they go.
    assert finish(busy[0]) == 422
    with connected(server.http) as another:
        assert live(another) == 200


def test_the_one_that_was_idle_the_longest_makes_room(
    server: RunningServer, at_once: ExitStack
) -> None:
    assert server.https is not None
    first, second = (at_once.enter_context(connected(server.http)) for _ in range(2))
    tcp = at_once.enter_context(connected(server.https))
    secure = at_once.enter_context(TLS.wrap_socket(tcp, server_hostname="127.0.0.1"))
    for connection in (second, secure, first, secure):
        assert live(connection) == 200

    with connected(server.http) as another:
        assert live(another) == 200
        assert is_closed(second)
        with connected(server.http) as one_more:
            assert live(one_more) == 200
            assert is_closed(first)
            assert live(secure) == live(another) == 200


@pytest.mark.parametrize("port", ["http", "https"])
def test_those_that_never_say_anything_keep_nobody_out(
    server: RunningServer, at_once: ExitStack, port: str
) -> None:
    assert server.https is not None
    url = {"http": server.http, "https": server.https}[port]
    for _ in range(MANY):
        at_once.enter_context(connected(url))

    with connected(server.http) as plain:
        assert live(plain) == 200
        with (
            connected(server.https) as tcp,
            TLS.wrap_socket(tcp, server_hostname="127.0.0.1") as secure,
        ):
            assert live(secure) == 200
            until(lambda: held(server) <= LIMIT)


@pytest.mark.parametrize("port", ["http", "https"])
def test_those_that_are_refused_take_no_more_than_is_kept_for_them(
    server: RunningServer, at_once: ExitStack, port: str
) -> None:
    assert server.https is not None
    busy = [at_once.enter_context(connected(server.http)) for _ in range(LIMIT)]
    for connection in busy:
        begin(connection)
    url = {"http": server.http, "https": server.https}[port]
    seen = []
    for _ in range(MANY):
        at_once.enter_context(connected(url))
        seen.append(held(server))

    # And one that is just being closed.
    assert max(seen) <= LIMIT + REFUSED_AT_ONCE + 1
    for connection in busy:
        assert finish(connection) == 422


def limited(folder: Path, soft: int, hard: int) -> list[str | Path]:
    """A program that runs another with such limits, its stderr in a file."""
    script = f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@" 2>{folder}/log'
    return ["sh", "-c", script, "sh", COMMAND]


def test_the_soft_limit_of_descriptors_is_raised_and_bounds_the_connections(
    tmp_path: Path,
) -> None:
    hard = RESERVED + LEAVING_AT_ONCE + 40 * PER_CONNECTION
    server = start_server(tmp_path, program=limited(tmp_path, 128, hard))

    assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    assert server.end() == 0
    log = (tmp_path / "log").read_text()
    assert f"COSMOS_CONNECTION_LIMIT is taken as 40, for this process may open {hard}" in log


def test_too_few_descriptors_for_any_connection_end_the_start(tmp_path: Path) -> None:
    process = launch(tmp_path, program=limited(tmp_path, 128, RESERVED))

    with process:
        assert process.wait(60) != 0
    assert "needs more than" in (tmp_path / "log").read_text()


async def test_a_shortage_of_descriptors_is_logged_a_few_times_and_passes() -> None:
    """On two ports at once, with many who wait."""
    connections = Connections(LIMIT * MANY, read_timeout_s=60, write_timeout_s=60)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(on_loop_error)
    accepted: list[asyncio.BaseTransport] = []

    class Accepted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.append(transport)

    listeners = [Listener(socket.create_server(("127.0.0.1", 0)), connections) for _ in range(2)]
    servers = [await loop.create_server(Accepted, sock=each) for each in listeners]
    callers = [(socket.socket(), each.getsockname()) for each in listeners for _ in range(50)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    began = time.monotonic()
    with capture_logs() as lines:
        # From now on not one more.
        resource.setrlimit(resource.RLIMIT_NOFILE, (callers[0][0].fileno(), limits[1]))
        try:
            for caller, address in callers:
                caller.connect(address)
            while not lines:
                await asyncio.sleep(0.02)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        while len(accepted) < len(callers):
            await asyncio.sleep(0.02)

    assert len(lines) <= 1 + (time.monotonic() - began)
    assert lines[0]["event"] == "A connection could not be accepted"
    for transport in accepted:
        transport.close()
    for server in servers:
        server.close()
    for caller, _ in callers:
        caller.close()
