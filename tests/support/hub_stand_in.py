"""A stand-in of the Hugging Face Hub on loopback, which fails as a test tells it."""

import functools
import hashlib
import json
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import huggingface_hub.constants
import pytest
from http_sites import NO_ROOTS

from weights import download
from weights.guardrail import GUARDRAIL
from weights.manifest import load_manifest

LISTING = "the listing"
"""Stands for the listing where a test names a file."""

Place = tuple[str, str]
"""A repository, and a commit of it."""

_MANIFEST = load_manifest()
PUBLISHED: Place = (_MANIFEST.repository, _MANIFEST.commit)
GUARDRAIL_PLACE: Place = (GUARDRAIL.repository, GUARDRAIL.commit)
GUARDRAIL_FILES = {
    "config.json": b"{}",
    "model.safetensors": b"tensors",
    "tokenizer_config.json": b"{}",
    "vocab.json": b"{}",
    "merges.txt": b"#version",
}
"""Those that are needed."""
_TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/(\w+)(?:/([^/?]+))?\?recursive=true")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)")


def listing_at(place: Place) -> str:
    """Stands for the listing of another place than `PUBLISHED`."""
    return LISTING if place == PUBLISHED else f"the listing of {place[0]} at {place[1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with one answer.

    error: the name that the hub has for it, with which it refuses.
    cut_after, stall_after: bytes of the body, after which the connection is closed, or silent.
    lies: every byte is another, and there are as many.
    whole: Range is not understood, and the whole file is sent.
    elsewhere: the answer is a redirect to this server.
    """

    status: int = 200
    error: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    stall_after: int | None = None
    lies: bool = False
    whole: bool = False
    elsewhere: str | None = None
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked of it: a file or `LISTING`, from which byte on, with which credentials."""

    what: str
    start: int
    authorization: str | None
    headers: dict[str, str]


@dataclass
class StandInHub:
    """The repository `files`, and what other places have.

    Files whose names end in `.safetensors` or `.pt` are kept by Git LFS.

    Each request for a file takes the next of its faults, and is answered well when there is none.
    """

    files: dict[str, bytes]
    others: dict[Place, dict[str, bytes]] = field(default_factory=dict)
    token: str | None = None
    faults: dict[str, Iterator[Fault]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    stalled: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def fail(self, what: str, *faults: Fault) -> None:
        self.faults[what] = iter(faults)

    def always_fail(self, what: str, fault: Fault) -> None:
        self.faults[what] = iter(lambda: fault, None)

    def asked(self, what: str) -> list[int]:
        """From which bytes on it was asked for."""
        return [request.start for request in self.requests if request.what == what]

    def files_at(self, place: Place) -> dict[str, bytes]:
        return self.files if place == PUBLISHED else self.others.get(place, {})

    def tree(self, place: Place, folder: str) -> bytes:
        entries: list[dict[str, Any]] = [{"type": "directory", "oid": "0" * 40, "path": "vae"}]
        for path, data in self.files_at(place).items():
            if not path.startswith(folder):
                continue
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry = {"type": "file", "oid": blob, "size": len(data), "path": path}
            if path.endswith((".safetensors", ".pt")):
                sha256 = hashlib.sha256(data).hexdigest()
                entry["oid"] = "f" * 40  # of the pointer
                entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
                entry["xetHash"] = "e" * 64
            entries.append(entry)
        return json.dumps(entries).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandInHub

    def do_GET(self) -> None:
        hub = self.hub
        what, data = self._asked_for()
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        authorization = self.headers.get("Authorization")
        with hub.lock:
            hub.requests.append(Request(what, start, authorization, dict(self.headers)))
            fault = next(hub.faults.get(what, iter(())), Fault())
        if fault.elsewhere is not None:
            self._answer(302, {"Location": fault.elsewhere + self.path})
        elif fault.error is not None or fault.status >= 400:
            named = {"X-Error-Code": fault.error} if fault.error else {}
            said = {"X-Error-Message": "As the test wants."}
            self._answer(fault.status, fault.headers | named | said)
        elif hub.token is not None and authorization != f"Bearer {hub.token}":
            self._answer(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Restricted."})
        elif data is None:
            self._answer(404, {"X-Error-Code": "EntryNotFound"})
        else:
            self._send(what, data, 0 if fault.whole else start, fault)

    def _asked_for(self) -> tuple[str, bytes | None]:
        """What the path names, and its bytes, if there is such a thing."""
        if asked := _TREE.fullmatch(self.path):
            repository, commit, folder = asked.groups(default="")
            place = (repository, commit)
            return listing_at(place), self.hub.tree(place, unquote(folder))
        if asked := _FILE.fullmatch(self.path):
            repository, commit, path = asked.groups()
            return path, self.hub.files_at((repository, commit)).get(path)
        self.hub.unknown.append(self.path)
        return self.path, None

    def _send(self, what: str, data: bytes, start: int, fault: Fault) -> None:
        if fault.body is not None:
            data = fault.body
        if fault.lies:
            data = bytes(255 - byte for byte in data)
        body = data[start:]
        ranged = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        stops = min(
            (at for at in (fault.cut_after, fault.stall_after) if at is not None), default=None
        )
        self._answer(206 if start else 200, ranged | fault.headers, body, stops)
        with self.hub.lock:
            self.hub.sent[what] = self.hub.sent.get(what, 0) + len(body[:stops])
        if fault.stall_after is not None:
            self.hub.stalled.set()
            self.hub.closing.wait()
        if stops is not None:
            self.close_connection = True

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes = b"", stops: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        # A client that has heard enough hangs up.
        with suppress(ConnectionError):
            self.wfile.write(body[:stops])
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that is killed resets its connections."""


@contextmanager
def running_hub(files: dict[str, bytes], host: str = "127.0.0.1") -> Iterator[StandInHub]:
    hub = StandInHub(dict(files))
    handler = type("Handler", (_Handler,), {"hub": hub})
    with _Server(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://{host}:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.closing.set()
            server.shutdown()
            thread.join()


def files_in(root: Path) -> dict[str, bytes]:
    paths: Iterable[Path] = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def forget_the_hub(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """No proxy, no token of this machine's user, no waits, and no roots to read for long."""
    patch.setenv("NO_PROXY", "*")
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "COSMOS_WEIGHTS", "COSMOS_CONFIG"):
        patch.delenv(name, raising=False)
    patch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(folder / "no-token"))
    patch.setattr(httpx, "Client", functools.partial(httpx.Client, verify=NO_ROOTS))
    patch.setattr(download, "FIRST_WAIT_S", 0.0)
    patch.setattr(download, "READ_TIMEOUT_S", 0.2)
