"""The Caddy of the profile `cluster`, with its configuration, before two servers."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from paths import ROOT
from servers import ENDPOINT, RunningServer, request_of, start_server

pytestmark = pytest.mark.clients

SAMPLE = (ROOT / "deploy" / "Caddyfile.cluster").read_text()
NOTICED_WITHIN_S = 4.0
KEY = "me:s3cret"


@contextmanager
def proxied(
    folder: Path, **environment: str
) -> Iterator[tuple[httpx.Client, tuple[RunningServer, RunningServer]]]:
    """A client that speaks to the proxy, and the servers behind it."""
    program = shutil.which("caddy")
    if program is None:
        pytest.skip("caddy is not installed")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    with ExitStack() as stack:
        settings = {"COSMOS_KEY": KEY, "COSMOS_FORWARDED_ALLOW_IPS": "127.0.0.1"} | environment
        first = start_server(folder / "1", **settings)
        stack.callback(end, first)
        second = start_server(folder / "2", **settings)
        stack.callback(end, second)
        addresses = [each.http.removeprefix("http://") for each in (first, second)]
        assert "api-1:8000 api-2:8000" in SAMPLE
        site = SAMPLE.replace("api-1:8000 api-2:8000", " ".join(addresses))
        site = site.replace(":8000 {\n", f"http://127.0.0.1:{port} {{\n", 1)
        (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n}}\n{site}")
        options = ["--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
        caddy = stack.enter_context(
            subprocess.Popen(
                [program, "run", *options], env={"HOME": str(folder), "PATH": os.environ["PATH"]}
            )
        )
        stack.callback(caddy.terminate)
        client = stack.enter_context(
            httpx.Client(
                base_url=f"http://127.0.0.1:{port}",
                headers={"authorization": f"Key {KEY}"},
                timeout=30,
            )
        )
        while not listens(port):
            assert caddy.poll() is None, "caddy ended"
            time.sleep(0.02)
        yield client, (first, second)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def end(server: RunningServer) -> None:
    assert server.process.stdout is not None
    if not server.process.stdout.closed:  # else the test has ended it
        server.end(signal.SIGKILL)


def submit(client: httpx.Client) -> int:
    return client.post(f"/queue/{ENDPOINT}", json=request_of("wait 1")).status_code


def test_a_server_that_is_killed_takes_the_other_one_with_it_for_no_caller(tmp_path: Path) -> None:
    with proxied(tmp_path) as (client, (first, _)):
        while httpx.get(f"{first.http}/health/ready").status_code != 200:
            time.sleep(0.02)
        assert [submit(client) for _ in range(6)] == [200] * 6
        first.end(signal.SIGKILL)
        ends_at = time.monotonic() + NOTICED_WITHIN_S
        while [submit(client) for _ in range(6)] != [200] * 6:
            assert time.monotonic() < ends_at


def test_servers_none_of_which_is_ready_say_so_themselves(tmp_path: Path) -> None:
    """Here their guardrail is away; so it is with the bucket. What is accepted waits."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        away = f"http://127.0.0.1:{probe.getsockname()[1]}/v1/moderations"
    with proxied(tmp_path, COSMOS_GUARDRAIL=away) as (client, servers):
        ready = {httpx.get(f"{each.http}/health/ready").status_code for each in servers}
        # By then the proxy knows that none is.
        time.sleep(2.5)

        answer = client.get("/health/ready")

        assert ready == {503}
        assert (answer.status_code, answer.json()["status"]) == (503, "not ready")
        assert [submit(client) for _ in range(3)] == [200] * 3
