"""The server as a process of its own, started by `cosmos-serve serve` with a scripted worker."""

import ast
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from client_servers import KEY, ClientServer
from servers import COMMAND, ENDPOINT, ignoring, request_of, start_server

AUTHORIZED = {"authorization": f"Key {KEY}"}
SEVERAL_S = 20.0


def wait_for(status_url: str, status: str) -> None:
    while httpx.get(status_url).json()["status"] != status:
        time.sleep(0.02)


def test_a_caller_who_goes_away_cancels_the_run(tmp_path: Path) -> None:
    server = start_server(tmp_path, program=[COMMAND], COSMOS_DISCONNECT_GRACE="0.2")
    try:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{server.http}/run/{ENDPOINT}",
                json=request_of("sleep 3600"),
                timeout=httpx.Timeout(SEVERAL_S, read=1.0),
            )

        # The one worker is free again, or this would wait behind the abandoned run for ever.
        answer = httpx.post(f"{server.http}/run/{ENDPOINT}", json=request_of(), timeout=SEVERAL_S)
        assert answer.status_code == 200
    finally:
        server.end()


def test_the_server_does_not_say_what_it_runs_on(client_server: ClientServer) -> None:
    assert "server" not in httpx.get(f"{client_server.http}/health/live").headers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_server_and_its_workers(tmp_path: Path, number: signal.Signals) -> None:
    server = start_server(tmp_path, program=[COMMAND])
    busy = httpx.post(f"{server.http}/queue/{ENDPOINT}", json=request_of("sleep 3600")).json()
    wait_for(busy["status_url"], "IN_PROGRESS")
    workers = psutil.Process(server.process.pid).children(recursive=True)
    assert workers

    assert server.end(number) == 0

    assert psutil.wait_procs(workers, timeout=SEVERAL_S)[1] == []


def test_a_server_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    server = start_server(tmp_path, program=ignoring("HUP"))
    server.process.send_signal(signal.SIGHUP)
    assert httpx.get(f"{server.http}/health/live").status_code == 200
    assert server.end() == 0


def test_a_killed_server_loses_no_job(tmp_path: Path) -> None:
    first = start_server(tmp_path, program=[COMMAND])
    job = httpx.post(f"{first.http}/queue/{ENDPOINT}", json=request_of("sleep 0.5", seed=11)).json()
    wait_for(job["status_url"], "IN_PROGRESS")
    first.end(signal.SIGKILL)

    second = start_server(tmp_path, program=[COMMAND])
    # The job's own URLs name the port of the server that is gone.
    request = job["response_url"].replace(first.http, second.http)
    wait_for(f"{request}/status", "COMPLETED")
    assert httpx.get(request).json()["seed"] == 11
    assert second.end() == 0


@pytest.mark.parametrize(
    ("module", "present", "absent"),
    [
        (
            "server.serve",
            "server.dispatch.dispatcher",
            {"torch", "diffusers", "transformers", "numpy"},
        ),
        (
            "server.cli.main",
            "server.config.settings",
            {"torch", "numpy", "sqlalchemy", "fastapi", "PIL"},
        ),
    ],
)
def test_a_start_imports_nothing_that_it_does_not_need(
    module: str, present: str, absent: set[str]
) -> None:
    code = f"import sys, {module}; print(sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    modules = ast.literal_eval(ran.stdout)

    assert present in modules
    assert not absent & set(modules)
