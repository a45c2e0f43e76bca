"""Thousands of hostile requests, and some as raw bytes: what they must not achieve."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from api_keys import add_key, by_key
from asgi_calls import app_of, call, scope_of
from hostile_requests import HostileRequest, hostile_requests, known_requests, mangled_requests
from hypothesis import HealthCheck, given, seed, settings
from postgres_server import PostgresServer
from pydantic import SecretStr
from queue_calls import RUN, SUBMIT, until
from raw_http import exchange
from servers import APP, request_of, serving, settings_in, start_server
from starlette.types import ASGIApp
from upload_calls import upload

from server.fal.urls import Service, resolve

pytestmark = [
    # For each of four kinds of caller: a thousand in all, or ten thousand.
    pytest.mark.parametrize("count", [250, pytest.param(2500, marks=pytest.mark.slow)]),
    # A failure is shrunk, which takes longer than to find it.
    pytest.mark.timeout(600),
]

HEADER_NAME = re.compile(rb"[a-z0-9-]+")
HEADER_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
INTERNALS = b"Traceback site-packages sqlite3. sqlalchemy psycopg /checkpoint jobs.sqlite3-".split()
"""What no response may show."""

WITHOUT_KEY = re.compile(r"jwks\.json|/(meta|models)/?$")
"""The paths of other services that need no key: what they say is the same for all."""

OPEN = {Service.HEALTH, Service.DISCOVERY, Service.FILES}
"""What needs no key, or another right than a key."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server with a video, an upload and an unfinished upload of its owner."""

    runner: asyncio.Runner
    client: httpx.AsyncClient
    folder: Path
    callers: Mapping[str, str]
    """The authorization that each kind of caller sends."""

    job: str
    ids: list[str]

    @property
    def secrets(self) -> list[bytes]:
        return [given.partition(":")[2].encode() for given in self.callers.values() if given]


@contextmanager
def target_in(folder: Path, callers: Mapping[str, str], **changes: Any) -> Iterator[Target]:
    with asyncio.Runner() as runner:
        server = serving(settings_in(folder, **changes))
        client = runner.run(server.__aenter__())
        try:
            job, *ids = runner.run(fill(client, callers["owner"]))
            yield Target(runner, client, folder, callers, job, [job, job.upper(), *ids])
        finally:
            runner.run(server.__aexit__(None, None, None))


async def fill(client: httpx.AsyncClient, authorization: str) -> list[str]:
    """The ids of a new video's job, of a file and of an upload."""
    headers = {"authorization": authorization} if authorization else {}
    client.headers.update(headers)
    job = (await client.post(SUBMIT, json=request_of("owned"))).json()["request_id"]
    await until(client, job, "COMPLETED")
    file = (await upload(client, b"secret of the owner", "text/plain", "a.txt")).split("/")[-2]
    begun = await client.post("/files/upload/multipart", headers={"content-type": "image/png"})
    for name in headers:
        del client.headers[name]
    return [job, file, begun.json()["uploadId"]]


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.cluster)]
)
def database(request: pytest.FixtureRequest) -> Iterator[SecretStr | None]:
    """The setting of that name."""
    if request.param == "sqlite":
        yield None
        return
    postgres: PostgresServer = request.getfixturevalue("postgres")
    with postgres.database(like="prepared") as url:
        yield url


@pytest.fixture(scope="module")
def target(
    tmp_path_factory: pytest.TempPathFactory, database: SecretStr | None
) -> Iterator[Target]:
    """A server that asks for keys."""
    folder = tmp_path_factory.mktemp("target")
    changes = {"auth": "on", "database": database}
    owner, other = (
        by_key(add_key(settings_in(folder, **changes)))["authorization"] for _ in range(2)
    )
    callers = {"owner": owner, "other": other, "without a key": ""}
    with target_in(folder, callers, **changes) as target:
        yield target


@pytest.fixture(scope="module")
def open_target(
    tmp_path_factory: pytest.TempPathFactory, database: SecretStr | None
) -> Iterator[Target]:
    """A server that asks for none."""
    with target_in(tmp_path_factory.mktemp("open"), {"owner": ""}, database=database) as target:
        yield target


async def send(app: ASGIApp, request: HostileRequest) -> httpx.Response:
    """Call the app as uvicorn does."""
    scope = scope_of(request.method, request.target, request.headers)
    try:
        started, *bodies = await call(app, scope, *request.body)
    # Starlette answers an unforeseen error, and then raises it for the server to log.
    except Exception as error:
        raise AssertionError("the app raises") from error
    body = b"".join(message.get("body", b"") for message in bodies)
    return httpx.Response(started["status"], headers=started["headers"], content=body)


def check(response: httpx.Response, secrets: list[bytes], folder: Path) -> None:
    """What holds for every answer whatever was asked; an operator's may hold all secrets."""
    assert 200 <= response.status_code < 500
    (request_id,) = response.headers.get_list("x-fal-request-id")
    assert len(request_id) == 36
    for name, value in response.headers.raw:
        assert HEADER_NAME.fullmatch(name) and HEADER_VALUE.fullmatch(value), (name, value)
    if response.content and response.headers["content-type"].startswith("application/json"):
        response.json()
    internals = [*INTERNALS, str(folder).encode()]
    if not secrets and b'"findings"' in response.content:
        # What the doctor finds names folders, to the operator alone.
        internals = []
    for inside in (*internals, *secrets):
        assert inside not in response.content
        assert not any(inside in value for _, value in response.headers.raw)


def check_rights(caller: str, request: HostileRequest, response: httpx.Response, job: str) -> None:
    """Who has no key gets nothing, and who has another one gets nothing of the owner's."""
    host = dict(request.headers).get(b"host", b"").decode("latin-1")
    address = resolve(host, request.target.partition(b"?")[0].decode("ascii"))
    if caller == "other" and job.lower() in request.target.decode("latin-1").lower():
        assert response.status_code >= 300 or address is None or address.service in OPEN
    if caller == "without a key" and address is not None and address.service not in OPEN:
        is_public = WITHOUT_KEY.search(address.path) is not None
        is_preflight = request.method == "OPTIONS"
        assert response.status_code >= 400 or is_public or is_preflight


def path_of(request: HostileRequest) -> str:
    """As the app sees it, in lower case."""
    path, _, _ = request.target.partition(b"?")
    return unquote(path.decode("latin-1")).lower()


def many(count: int) -> settings:
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))


def attack(target: Target, caller: str, *, count: int, seed_of_caller: int) -> None:
    secrets = [] if caller == "owner" else target.secrets
    authorization = target.callers[caller]

    def send_one(request: HostileRequest) -> None:
        # Who owns the job may delete it, and the others' requests are to be about it, too.
        if caller == "owner" and request.method == "DELETE" and target.job in path_of(request):
            return
        response = target.runner.run(send(app_of(target.client), request))
        check(response, secrets, target.folder)
        check_rights(caller, request, response, target.job)

    for request in known_requests(authorization):
        send_one(request)
    # Without a seed of its own each kind of caller would send the same requests.
    search = given(hostile_requests(target.ids, authorization))(send_one)
    seed(seed_of_caller)(many(count)(search))()
    target.runner.run(assert_well(target))


async def assert_well(target: Target) -> None:
    """The server answers, has lost nothing of its owner's, and makes a video."""
    headers = {"authorization": target.callers["owner"]} if target.callers["owner"] else {}
    client = target.client
    assert (await client.get("/health/live")).status_code == 200
    result = await client.get(f"/queue/{APP}/requests/{target.job}", headers=headers)
    assert result.status_code == 200
    assert (await client.get(result.json()["video"]["url"])).status_code == 200
    assert (await client.post(RUN, json=request_of(), headers=headers)).status_code == 200


CALLERS = ["owner", "other", "without a key"]


@pytest.mark.parametrize("caller", CALLERS)
def test_hostile_requests_get_nothing_and_break_nothing(
    target: Target, caller: str, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    attack(target, caller, count=count, seed_of_caller=CALLERS.index(caller))

    assert "Unexpected error" not in "".join(capfd.readouterr())


def test_hostile_requests_break_nothing_where_no_key_is_needed(
    open_target: Target, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    attack(open_target, "owner", count=count, seed_of_caller=len(CALLERS))

    assert "Unexpected error" not in "".join(capfd.readouterr())


def test_malformed_requests_break_nothing(
    tmp_path: Path, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    # What is not whole is waited for, and then refused.
    server = start_server(tmp_path, COSMOS_READ_TIMEOUT="0.2")
    statuses = Counter[int]()

    @many(count // 10)
    @given(mangled_requests())
    def send_one(sent: bytes) -> None:
        if (answer := exchange(server.http, sent)) is not None:
            statuses[answer.status] += 1
            # A stream, because for a content httpx would add headers of its own.
            stream = httpx.ByteStream(answer.body)
            response = httpx.Response(answer.status, headers=dict(answer.headers), stream=stream)
            response.read()
            check(response, [], tmp_path)

    send_one()
    print(statuses)
    assert statuses.total() > count // 20 and len(statuses) > 3, statuses
    with httpx.Client(base_url=server.http, timeout=60) as client:
        assert client.get("/health/live").status_code == 200
        assert client.post(RUN, json=request_of()).status_code == 200
    assert server.end() == 0
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed and "Unexpected error" not in printed
