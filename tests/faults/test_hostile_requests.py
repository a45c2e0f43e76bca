"""Ten thousand requests that mean no good, and some more as bytes: what they may not achieve.

A request that fails is printed as it was sent; its seed and number make it again.
"""

import json
import random
import re
from collections.abc import AsyncIterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import pytest_asyncio
from api_keys import add_key, by_key
from hostile_requests import Hostile, HostileRequests, mangled
from queue_calls import RUN, SUBMIT, until
from raw_http import exchange
from servers import APP, request_of, serving, settings_in, start_server
from starlette.types import ASGIApp
from upload_calls import upload

from server.fal.urls import Service, resolve

NUM_REQUESTS = 2500
"""For each kind of caller."""

NUM_RAW = 400

HEADER_NAME = re.compile(rb"[a-z0-9-]+")
HEADER_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
INSIDE = [
    b"Traceback",
    b"site-packages",
    b"sqlite3.",
    b"sqlalchemy",
    b"/checkpoint",
    b"jobs.sqlite3-",
]
"""What no answer may show."""

OPEN = {Service.HEALTH, Service.DISCOVERY, Service.FILES}
"""What needs no key, or another right than a key."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer in the form of ASGI."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass(frozen=True, slots=True)
class Target:
    """A server with things in it that a stranger may want."""

    client: httpx.AsyncClient
    folder: Path
    callers: Mapping[str, str]
    """What each kind of caller proves itself by."""

    job: str
    ids: list[str]

    @property
    def app(self) -> ASGIApp:
        transport = self.client._transport
        assert isinstance(transport, httpx.ASGITransport)
        return transport.app

    @property
    def secrets(self) -> list[bytes]:
        return [given.partition(":")[2].encode() for given in self.callers.values() if given]


async def filled(client: httpx.AsyncClient, folder: Path, callers: Mapping[str, str]) -> Target:
    """The server, with a video, an upload, and an upload under way, all of its owner."""
    headers = {"authorization": callers["owner"]} if callers["owner"] else {}
    client.headers.update(headers)
    job = (await client.post(SUBMIT, json=request_of("owned"))).json()["request_id"]
    await until(client, job, "COMPLETED")
    file = (await upload(client, b"secret of the owner", "text/plain", "a.txt")).split("/")[-2]
    begun = await client.post("/files/upload/multipart", headers={"content-type": "image/png"})
    for name in headers:
        del client.headers[name]
    ids = [job, job.upper(), file, begun.json()["uploadId"]]
    return Target(client, folder, callers, job, ids * 2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """A server that asks for keys."""
    folder = tmp_path_factory.mktemp("target")
    settings = settings_in(folder, auth="on")
    owner, other = (by_key(add_key(settings))["authorization"] for _ in range(2))
    async with serving(settings) as client:
        yield await filled(client, folder, {"owner": owner, "other": other, "nobody": ""})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """A server that asks for none."""
    folder = tmp_path_factory.mktemp("open")
    async with serving(settings_in(folder)) as client:
        yield await filled(client, folder, {"owner": ""})


async def send(app: ASGIApp, hostile: Hostile) -> Answered:
    """Call the app as uvicorn does."""
    path, _, query = hostile.target.partition(b"?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": hostile.method,
        "scheme": "http",
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(hostile.headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    pieces = [hostile.body[:100], hostile.body[100:]]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not pieces:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def take(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    try:
        await app(scope, receive, take)
    # Starlette answers an unforeseen error, and then raises it for the server to log.
    except Exception as error:
        raise AssertionError("the app raises") from error
    started, *bodies = sent
    body = b"".join(message.get("body", b"") for message in bodies)
    return Answered(started["status"], list(started["headers"]), body)


def check(answered: Answered, secrets: list[bytes], folder: Path) -> None:
    """What holds for every answer whatever was asked."""
    assert 200 <= answered.status < 500
    named = dict(answered.headers)
    assert len(named[b"x-fal-request-id"]) == 36
    assert [name for name, _ in answered.headers].count(b"x-fal-request-id") == 1
    for name, value in answered.headers:
        assert HEADER_NAME.fullmatch(name) and HEADER_VALUE.fullmatch(value), (name, value)
    if answered.body and named.get(b"content-type", b"").startswith(b"application/json"):
        json.loads(answered.body)
    for inside in (*INSIDE, str(folder).encode(), *secrets):
        assert inside not in answered.body
        assert not any(inside in value for _, value in answered.headers)


def check_rights(caller: str, hostile: Hostile, answered: Answered, job: str) -> None:
    """Who has no key gets nothing, and who has another one gets nothing of the owner's."""
    host = dict(hostile.headers)[b"host"].decode("latin-1")
    address = resolve(host, hostile.target.partition(b"?")[0].decode("ascii"))
    if caller == "other" and job.lower() in hostile.target.decode("ascii").lower():
        assert answered.status >= 300 or address is None or address.service in OPEN
    if caller == "nobody" and address is not None and address.service not in OPEN:
        is_key_set = "jwks.json" in address.path
        is_preflight = hostile.method == "OPTIONS"
        assert answered.status >= 400 or is_key_set or is_preflight


async def attack(target: Target, caller: str) -> None:
    seed = f"{caller} 1"
    made = HostileRequests(seed, ids=target.ids, authorization=target.callers[caller])
    secrets = [] if caller == "owner" else target.secrets
    for number in range(NUM_REQUESTS):
        hostile = made.next()
        try:
            answered = await send(target.app, hostile)
            check(answered, secrets, target.folder)
            check_rights(caller, hostile, answered, target.job)
        except (AssertionError, ValueError) as error:
            raise AssertionError(f"seed {seed!r}, number {number}: {hostile}") from error


async def assert_well(target: Target) -> None:
    """The server answers, has lost nothing of its owner's, and makes a video."""
    headers = {"authorization": target.callers["owner"]} if target.callers["owner"] else {}
    client = target.client
    assert (await client.get("/health/live")).status_code == 200
    result = await client.get(f"/queue/{APP}/requests/{target.job}", headers=headers)
    assert result.status_code == 200
    assert (await client.get(result.json()["video"]["url"])).status_code == 200
    assert (await client.post(RUN, json=request_of(), headers=headers)).status_code == 200


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("caller", ["owner", "other", "nobody"])
async def test_hostile_requests_get_nothing_and_break_nothing(
    target: Target, caller: str, capfd: pytest.CaptureFixture[str]
) -> None:
    await attack(target, caller)

    await assert_well(target)
    assert "Unexpected error" not in "".join(capfd.readouterr())


@pytest.mark.asyncio(loop_scope="module")
async def test_nor_do_they_where_no_key_is_asked_for(
    open_target: Target, capfd: pytest.CaptureFixture[str]
) -> None:
    await attack(open_target, "owner")

    await assert_well(open_target)
    assert "Unexpected error" not in "".join(capfd.readouterr())


def test_bytes_that_are_no_proper_request_break_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = start_server(tmp_path)
    made, dice = HostileRequests("raw 1"), random.Random("raw 1")
    for number in range(NUM_RAW):
        sent = mangled(dice, made.next().raw())
        try:
            answer = exchange(server.http, sent)
            if answer is not None:
                named = [
                    (name.encode("latin-1"), value.encode("latin-1"))
                    for name, value in answer.headers.items()
                ]
                check(Answered(answer.status, named, answer.body), [], tmp_path)
        except Exception as error:
            raise AssertionError(f"number {number}: {sent!r}") from error
    with httpx.Client(base_url=server.http, timeout=60) as client:
        assert client.get("/health/live").status_code == 200
        assert client.post(RUN, json=request_of()).status_code == 200
    assert server.end() == 0
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed and "Unexpected error" not in printed
