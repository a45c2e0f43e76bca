"""A server whose stderr takes nothing: its disk is full, or its reader has stopped."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from full_pipes import FullPipe
from raw_http import exchange
from servers import (
    COMMAND,
    ENDPOINT,
    RunningServer,
    launch,
    logging_to,
    request_of,
    start_server,
)

MALFORMED = 1600


@contextmanager
def stuck(kind: str) -> Iterator[str]:
    """The path of what takes nothing."""
    if kind == "a full disk":
        yield "/dev/full"
    else:
        with FullPipe() as pipe:
            yield f"/proc/{os.getpid()}/fd/{pipe.sink}"


def run(server: RunningServer, prompt: str) -> int:
    """Make a video; the status of the answer."""
    url = f"{server.http}/run/{ENDPOINT}"
    return httpx.post(url, json=request_of(prompt), timeout=60).status_code


def send_malformed(server: RunningServer) -> None:
    for _ in range(MALFORMED):
        answer = exchange(server.http, b"no request\r\n\r\n")
        assert answer is not None
        assert answer.status == 400


@pytest.mark.parametrize("kind", ["a full disk", "a reader that stopped"])
def test_jobs_go_on_though_nothing_can_be_logged(tmp_path: Path, kind: str) -> None:
    with stuck(kind) as path:
        server = start_server(tmp_path, program=logging_to(path))
        try:
            # What is logged in an `except`, by the server and by a worker, and by strangers.
            assert run(server, "killed once") == 200
            assert run(server, "raise") == 500
            assert run(server, "stderr 2000000") == 200
            send_malformed(server)
            assert run(server, "") == 200
            assert httpx.get(f"{server.http}/health/ready").status_code == 200
        finally:
            assert server.end() == 0


def test_a_server_whose_standard_streams_are_closed_serves(tmp_path: Path) -> None:
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", str(COMMAND)]
    with launch(tmp_path, program=closed) as process:
        server = RunningServer(process, f"http://127.0.0.1:{port_of(process.pid)}", None)
        try:
            send_malformed(server)
            assert run(server, "stderr 100000") == 200
            opened = [Path(f"/proc/{process.pid}/fd/{number}").readlink() for number in range(3)]
            assert opened[:2] == [Path("/dev/null")] * 2
            assert opened[2].name.startswith("pipe:"), "that of `unblocked_stderr`"
        finally:
            assert server.end() == 0


def port_of(pid: int) -> int:
    """The port of a server that cannot say where it listens."""
    while True:
        for each in psutil.Process(pid).net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN:
                return int(each.laddr.port)
        time.sleep(0.02)


def test_strangers_fill_no_disk(tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = start_server(tmp_path, program=logging_to(log))
    try:
        send_malformed(server)
    finally:
        assert server.end() == 0
    lines = log.read_text().count("Invalid HTTP request received.")
    assert 1 < lines < MALFORMED / 4
    assert "more like this are left out" in log.read_text()
