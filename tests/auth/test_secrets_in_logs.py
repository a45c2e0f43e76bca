"""What a server prints and logs: no key, no token, no query string, no prompt, no URL of a file."""

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import httpx
from api_keys import by_key
from paths import SUPPORT
from raw_http import answer_on, connected
from servers import APP, ENDPOINT, picture, request_of, settings_in

PROMPT = "a-prompt-of-the-caller"
PICTURE_QUERY = "a-signature-of-a-picture"
HOOK_QUERY = "a-signature-of-a-webhook"
UPLOADED = "a-name-of-a-file.png"
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
        "COSMOS_FETCH_ALLOW_NETS": "127.0.0.0/8",
        "COSMOS_WORKER": settings.worker,
        "PYTHONPATH": str(SUPPORT),
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


def send_media(client: httpx.Client) -> list[str]:
    """Send and name files in every way that there is; the ids that their URLs have."""
    named = {"x-fal-file-name": UPLOADED, "content-type": "image/png"}
    upload = client.post("/files/upload", content=picture(), headers=named).json()["access_url"]
    made = client.post(f"/run/{ENDPOINT}", json=request_of(image_url=upload)).json()
    video = str(made["video"]["url"])
    assert client.get(video).status_code == 200
    hook = {"fal_webhook": f"http://127.0.0.1:9/hook?{HOOK_QUERY}"}
    assert client.post(f"/queue/{ENDPOINT}", json=request_of(), params=hook).status_code == 200
    for url in (
        f"http://127.0.0.1:9/{UPLOADED}?{PICTURE_QUERY}",
        f"http://10.0.0.1/{UPLOADED}?{PICTURE_QUERY}",
        upload.replace(".png", ".gif"),
        f"data:image/png;base64,{PICTURE_QUERY}",
    ):
        answer = client.post(f"/run/{ENDPOINT}", json=request_of(image_url=url))
        assert answer.status_code == 422, answer.text
    return [upload.split("/")[-2], video.split("/")[-2]]


def call(url: str, key: str, data: Path) -> list[str]:
    """Make what can fail do so; what was shown or handed out meanwhile."""
    with httpx.Client(base_url=url, headers=by_key(key), timeout=30) as client:
        wanted = {"allowed_apps": ["cosmos-predict-2.5"]}
        token = str(client.post("/rest/tokens/", json=wanted).json())
        query = {"fal_jwt_token": token, "logs": "1"}
        run = f"/run/{ENDPOINT}"
        job = client.post(f"/queue/{ENDPOINT}", json=request_of(PROMPT), params=query).json()
        signed_in = client.post("/page/session", json={"key": key}, headers={"origin": url})
        session = str(signed_in.cookies["cosmos_session"])
        assert client.get("/nothing/here").status_code == 404
        files = send_media(client)
        request = f"/queue/{APP}/requests/{job['request_id']}"
        while client.get(f"{request}/status", params=query).json()["status"] != "COMPLETED":
            pass
        codes = [
            client.post(run, json=request_of(f"{PROMPT}; raise"), params=query).status_code,
            client.post(run, json=request_of(f"{PROMPT}; print; killed"), params=query).status_code,
            client.post("/nothing/here", params=query).status_code,
            client.get(run, params=query).status_code,
            client.post(run, json={}, params=query).status_code,
            client.get(f"{run}/realtime", params=query, headers=WEBSOCKET).status_code,
        ]
        assert codes == [500, 500, 404, 405, 422, 403]
        # First what a run makes cannot be kept, and then not even what is asked for.
        for table in ("artifacts", "jobs"):
            break_table(data / "jobs.sqlite3", table)
            assert client.post(run, json=request_of(PROMPT), params=query).status_code == 500
    for sent in (f"GET /?{token} HTTP/1.1\r\nhost: a b\r\n\0\r\n\r\n", f"GET /{token * 500}"):
        with connected(url) as raw:
            raw.sendall(sent.encode())
            assert answer_on(raw).status in (400, 431)
    return [token, token.split(".")[2], session, *files]


def test_nothing_that_a_caller_sent_is_printed_or_logged(tmp_path: Path) -> None:
    log, key_file = tmp_path / "log", tmp_path / "data" / "key"
    process, url = start(tmp_path, log)
    key = key_file.read_text().strip()
    try:
        handed_out = call(url, key, tmp_path / "data")
    finally:
        process.terminate()
        process.wait(30)
    printed = log.read_text()
    assert str(key_file) in printed, "the first key is announced"
    assert "the disk is full" in printed, "what went wrong is logged"
    assert "A webhook was not taken" in printed, "who did not take it is logged"
    assert "a line on stdout" in printed, "what a worker prints is seen"
    sent = [PROMPT, PICTURE_QUERY, HOOK_QUERY, UPLOADED, "fal_jwt_token", "/files/", "data:image"]
    for secret in (key.partition(":")[2], *handed_out, *sent):
        assert secret not in printed
