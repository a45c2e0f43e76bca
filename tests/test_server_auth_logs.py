"""What a server prints and logs: no key, no token, no query string, no prompt."""

import os
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from api_keys import by_key
from servers import APP, ENDPOINT, request_of, settings_in

PROMPT = "a-prompt-of-the-caller"
WEBSOCKET = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def start(folder: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A server that makes its first key, and prints to a file; and where it listens."""
    settings = settings_in(folder)
    folders = ["--weights", str(settings.weights), "--data", str(settings.data)]
    environment = {
        "COSMOS_AUTH": "on",
        "COSMOS_DEVICES": "cpu",
        "COSMOS_WORKER": settings.worker,
        "PYTHONPATH": str(Path(__file__).parent),
    }
    with log.open("wb") as file:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("cosmos-serve"), "serve", *folders, "--port", "0"],
            env=os.environ | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    while "is in " not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    return process, log.read_text().partition("listens on ")[2].partition(",")[0]


def break_table(file: Path, name: str) -> None:
    """From now on the table takes no rows."""
    fails = "SELECT RAISE(ABORT, 'the disk is full');"
    with closing(sqlite3.connect(file)) as database:
        database.execute(f"CREATE TRIGGER full_{name} BEFORE INSERT ON {name} BEGIN {fails} END")


def call(url: str, key: str, data: Path) -> str:
    """Make what can fail do so; the token that was used."""
    with httpx.Client(base_url=url, headers=by_key(key), timeout=30) as client:
        wanted = {"allowed_apps": ["cosmos-predict-2.5"]}
        token = str(client.post("/rest/tokens/", json=wanted).json())
        query = {"fal_jwt_token": token, "logs": "1"}
        run = f"/run/{ENDPOINT}"
        job = client.post(f"/queue/{ENDPOINT}", json=request_of(PROMPT), params=query).json()
        request = f"/queue/{APP}/requests/{job['request_id']}"
        while client.get(f"{request}/status", params=query).json()["status"] != "COMPLETED":
            pass
        codes = [
            client.post(run, json=request_of(f"{PROMPT}; raise"), params=query).status_code,
            client.post("/nothing/here", params=query).status_code,
            client.get(run, params=query).status_code,
            client.post(run, json={}, params=query).status_code,
            client.get(f"{run}/realtime", params=query, headers=WEBSOCKET).status_code,
        ]
        assert codes == [500, 404, 405, 422, 403]
        # First what a run makes cannot be kept, and then not even what is asked for.
        for table in ("artifacts", "jobs"):
            break_table(data / "jobs.sqlite3", table)
            assert client.post(run, json=request_of(PROMPT), params=query).status_code == 500
    with socket.create_connection((str(urlsplit(url).hostname), urlsplit(url).port)) as raw:
        raw.sendall(
            f"GET /?fal_jwt_token={token} HTTP/1.1\\r\\nhost: a b\\r\\n\\x00\\r\\n\\r\\n".encode()
        )
        assert raw.recv(1000).startswith(b"HTTP/1.1 400")
    return token


def test_nothing_that_a_caller_sent_is_printed_or_logged(tmp_path: Path) -> None:
    log, key_file = tmp_path / "log", tmp_path / "data" / "key"
    process, url = start(tmp_path, log)
    key = key_file.read_text().strip()
    try:
        token = call(url, key, tmp_path / "data")
    finally:
        process.terminate()
        process.wait(30)
    printed = log.read_text()
    assert str(key_file) in printed, "the first key is announced"
    assert "the disk is full" in printed, "what went wrong is logged"
    for secret in (key.partition(":")[2], token, token.split(".")[2], "fal_jwt_token", PROMPT):
        assert secret not in printed
