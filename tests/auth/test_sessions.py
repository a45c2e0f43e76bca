"""Signing in by the page: a key is exchanged for a cookie, and what that opens."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from api_keys import add_key, by_key, keys_of
from asgi_calls import app_of, call, scope_of
from job_fixtures import Clock, sql
from queue_calls import SUBMIT, submit, until
from servers import APP, BASE_URL, ENDPOINT, request_of, serving, settings_in

from server.auth.sessions import SESSION_S, SESSIONS_OF_KEY, Session, SessionCache, SessionStore
from server.config.settings import Settings
from server.db.database import Database
from server.db.snapshot import copy_database
from server.jobs.clock import Clock as ServerClock
from server.jobs.clock import Heartbeat
from server.keys import ApiKey, Credential, Scope
from server.services import make_sweeper

SESSION = "/page/session"
UNKNOWN_JOB = f"/queue/{APP}/requests/00000000-0000-4000-8000-000000000000/status"
"""A caller that is let in is told that there is no such request."""
REQUESTS = f"/v1/models/requests/by-endpoint?endpoint_id={ENDPOINT}"

NAME = "cosmos_session"
COOKIE = f"{NAME}={{}}"
OWN = {"origin": BASE_URL}
PROXIED = {"x-forwarded-proto": "https", "x-forwarded-host": "v.example"}


async def sign_in(client: httpx.AsyncClient, key: str, **headers: str) -> httpx.Response:
    """Sign in as the page does; the client has the cookie then."""
    answer = await client.post(SESSION, json={"key": key}, headers=OWN | headers)
    assert answer.status_code == 200, answer.text
    return answer


def attributes(answer: httpx.Response) -> dict[str, str]:
    """Of the cookie that an answer sets, by their names in lower case; `name` is its own."""
    first, *rest = answer.headers["set-cookie"].split("; ")
    named = (each.partition("=") for each in rest)
    name, _, value = first.partition("=")
    return {key.lower(): text for key, _, text in named} | {"name": name, "value": value}


@asynccontextmanager
async def signed_in(
    folder: Path, *, fields: Mapping[str, Any] | None = None, **changes: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, Settings, str]]:
    """A server, and a client that has signed in with a new key."""
    settings = settings_in(folder, auth="on", **changes)
    key = add_key(settings, **(fields or {}))
    async with serving(settings) as client:
        await sign_in(client, key)
        yield client, settings, key


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client that has signed in; nothing that a test does ends its session."""
    folder = tmp_path_factory.mktemp("server")
    changes = {"cors_origins": "https://app.example", "files_auth": "key"}
    async with signed_in(folder, **changes, fields={"label": "laptop"}) as (client, _, _):
        yield client


async def test_a_key_is_exchanged_for_a_cookie_of_which_the_table_has_the_hash(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path, auth="on")
    key = add_key(settings, label="laptop")
    async with serving(settings) as client:
        answers = [
            await client.post(SESSION, json={"key": f" {key}\n"}, headers=OWN),
            await client.post(SESSION, headers=OWN | by_key(key)),
        ]
    cookies = [attributes(answer) for answer in answers]
    for answer, cookie in zip(answers, cookies, strict=True):
        assert answer.json()["key"] == {
            "id": key.partition(":")[0],
            "label": "laptop",
            "scopes": ["files", "run"],
        }
        assert abs(answer.json()["expires_at"] - time.time() - 12 * 3600) < 60
        assert answer.headers["cache-control"] == "no-store"
        assert len(cookie.pop("value")) == 43
        assert cookie == {
            "name": "cosmos_session",
            "httponly": "",
            "samesite": "strict",
            "max-age": str(12 * 3600),
            "path": "/",
        }
    values = {answer.headers["set-cookie"].partition(";")[0] for answer in answers}
    assert len(values) == 2
    stored = b"".join(file.read_bytes() for file in settings.data.glob("jobs.sqlite3*"))
    assert not any(value.partition("=")[2].encode() in stored for value in values)


async def test_a_second_sign_in_of_a_browser_ends_the_first(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (client, _, key):
        first = dict(client.cookies)
        assert (await client.get(UNKNOWN_JOB)).status_code == 404, "and it is in the copy"
        await sign_in(client, key)
        assert (await client.get(UNKNOWN_JOB)).status_code == 404
        client.cookies = httpx.Cookies(first)
        assert (await client.get(UNKNOWN_JOB)).status_code == 401


async def test_nothing_but_a_good_key_signs_in(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    key, expired = add_key(settings), add_key(settings, expires_at=time.time() - 1)
    revoked = add_key(settings)
    with keys_of(settings) as store:
        store.revoke(revoked.partition(":")[0])
    async with serving(settings) as client:
        wanted = {"allowed_apps": [APP]}
        token = (await client.post("/rest/tokens/", json=wanted, headers=by_key(key))).json()
        for given in (f"{key}x", key.partition(":")[0], token, expired, revoked, ""):
            for sent in ({"json": {"key": given}}, {"headers": {"authorization": f"Key {given}"}}):
                headers = OWN | sent.pop("headers", {})
                answer = await client.post(SESSION, headers=headers, **sent)
                assert answer.status_code == 401, given
                assert "set-cookie" not in answer.headers
        assert (await client.post(SESSION, json={}, headers=OWN)).status_code == 422
        too_long = await client.post(SESSION, json={"key": "x" * 5000}, headers=OWN)
        assert too_long.status_code == 413


@pytest.mark.parametrize(
    ("settings", "headers", "own", "cookie"),
    [
        ({}, {}, BASE_URL, ("cosmos_session", "/", False)),
        ({}, {"host": "10.0.0.5:80"}, "http://10.0.0.5", ("cosmos_session", "/", False)),
        ({}, PROXIED, BASE_URL, ("cosmos_session", "/", False)),
        (
            {"forwarded_allow_ips": "127.0.0.1"},
            PROXIED,
            "https://v.example",
            ("__Host-cosmos_session", "/", True),
        ),
        (
            {"forwarded_allow_ips": "127.0.0.1"},
            PROXIED | {"x-forwarded-prefix": "/cosmos"},
            "https://v.example",
            ("cosmos_session", "/cosmos", True),
        ),
        (
            {"public_url": "https://v.example"},
            {"host": "v.example"},
            "https://v.example",
            ("__Host-cosmos_session", "/", True),
        ),
        (
            {"public_url": "https://v.example:8443/cosmos"},
            {},
            "https://v.example:8443",
            ("cosmos_session", "/cosmos", True),
        ),
    ],
)
async def test_the_cookie_is_for_the_origin_and_the_prefix_of_the_page(
    tmp_path: Path,
    settings: dict[str, str],
    headers: dict[str, str],
    own: str,
    cookie: tuple[str, str, bool],
) -> None:
    others = ["null", "https://v.example:444", "http://v.example", "http://localhost:8001"]
    others += ["https://localhost:8000", "https://a.v.example", "https://evil.example"]
    async with serving(settings_in(tmp_path, key="me:s3cret", **settings)) as client:
        for origin in others:
            answer = await client.post(
                SESSION, json={"key": "me:s3cret"}, headers=headers | {"origin": origin}
            )
            assert (answer.status_code, "set-cookie" in answer.headers) == (403, False), origin
            assert f"the page at {own}" in answer.json()["detail"]
        answer = await sign_in(client, "me:s3cret", **headers, origin=own)
        given = attributes(answer)
        assert (given["name"], given["path"], "secure" in given) == cookie

        sent = headers | {"cookie": f"{given['name']}={given['value']}"}
        client.cookies.clear()
        assert (await client.get(UNKNOWN_JOB, headers=sent)).status_code == 404
        for origin, status in ((own, 200), *((other, 401) for other in others)):
            answer = await client.post(SUBMIT, json=request_of(), headers=sent | {"origin": origin})
            assert answer.status_code == status, origin
        ended = attributes(await client.delete(SESSION, headers=sent | {"origin": own}))
        assert (ended["name"], ended["path"], "secure" in ended) == cookie
        assert (ended["value"], ended["max-age"]) == ('""', "0")
        assert (await client.get(UNKNOWN_JOB, headers=sent)).status_code == 401


async def test_under_tls_the_cookie_is_not_sent_without_it(tmp_path: Path) -> None:
    own = "https://localhost:8443"
    async with serving(settings_in(tmp_path, key="me:s3cret")) as client:
        client.base_url = httpx.URL(own)
        given = attributes(await sign_in(client, "me:s3cret", origin=own))
        assert (given["name"], "secure" in given) == ("__Host-cosmos_session", True)
        assert (await client.get(UNKNOWN_JOB)).status_code == 404
        answer = await client.post(SUBMIT, json=request_of(), headers=OWN)
        assert answer.status_code == 401, "of another scheme and port"
        client.base_url = httpx.URL(BASE_URL)
        assert (await client.get(UNKNOWN_JOB)).status_code == 401


async def test_under_https_a_cookie_that_a_sister_domain_can_set_is_not_taken(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path, key="me:s3cret", public_url="https://v.example")
    async with serving(settings) as client:
        given = attributes(await sign_in(client, "me:s3cret", origin="https://v.example"))
        client.cookies.clear()
        for name, status in (("__Host-cosmos_session", 404), ("cosmos_session", 401)):
            sent = {"cookie": f"{name}={given['value']}"}
            assert (await client.get(UNKNOWN_JOB, headers=sent)).status_code == status


@pytest.mark.parametrize(
    ("method", "path", "known"),
    [
        ("POST", SUBMIT, 200),
        ("PUT", UNKNOWN_JOB.replace("status", "cancel"), 404),
        ("DELETE", "/v1/models/requests/00000000-0000-4000-8000-000000000000/payloads", 404),
        ("POST", "/rest/storage/upload/initiate", 200),
        ("POST", "/files/upload", 200),
        ("POST", "/admin/queue/pause", 403),
        ("POST", f"/{ENDPOINT}", 200),
    ],
)
async def test_what_may_change_something_has_to_come_from_the_own_page(
    page: httpx.AsyncClient, method: str, path: str, known: int
) -> None:
    body = {"file_name": "a.png", "content_type": "image/png"} | request_of()
    for origin in (None, "http://localhost:8001", "https://localhost:8000", "https://app.example"):
        headers = {} if origin is None else {"origin": origin}
        answer = await page.request(method, path, json=body, headers=headers)
        assert answer.status_code == 401, origin
    answer = await page.request(method, path, json=body, headers=OWN)
    assert answer.status_code == known, answer.text


async def test_it_counts_nowhere_on_apis_for_programs(page: httpx.AsyncClient) -> None:
    target = {"x-fal-target-url": f"https://queue.fal.run{UNKNOWN_JOB.removeprefix('/queue')}"}
    assert (await page.get(UNKNOWN_JOB)).status_code == 404
    assert (await page.get("/v1/videos", headers=OWN)).status_code == 401
    by_fals_name = OWN | {"host": "api.fal.ai", "cookie": COOKIE.format(page.cookies[NAME])}
    assert (await page.get("/v1/videos", headers=by_fals_name)).status_code == 401
    assert (await page.post("/v1/videos", json={"prompt": "x"}, headers=OWN)).status_code == 401
    assert (await page.post("/mcp", json={}, headers=OWN)).status_code == 401
    assert (await page.get("/api/fal/proxy", headers=OWN | target)).status_code == 401


async def test_no_websocket_is_opened_with_it(page: httpx.AsyncClient) -> None:
    cookie = COOKIE.format(page.cookies[NAME])
    asked = OWN | {"cookie": cookie, "connection": "Upgrade", "upgrade": "websocket"}
    assert (await page.get(f"/run/{ENDPOINT}/realtime", headers=asked)).status_code == 403
    headers = [(name.encode(), value.encode()) for name, value in asked.items()]
    scope = scope_of("GET", f"/{ENDPOINT}/realtime".encode(), headers) | {"type": "websocket"}
    assert await call(app_of(page), scope) == [{"type": "websocket.close"}]


@pytest.mark.parametrize("origin", ["https://app.example", "http://localhost:8001"])
async def test_no_answer_to_another_origin_allows_credentials(
    page: httpx.AsyncClient, origin: str
) -> None:
    asking = {"origin": origin, "access-control-request-method": "POST"}
    for path in (UNKNOWN_JOB, SESSION):
        for answer in (
            await page.get(path, headers={"origin": origin}),
            await page.options(path, headers=asking),
        ):
            assert "access-control-allow-credentials" not in answer.headers


async def test_it_reads_the_files_of_its_key_as_bytes(
    page: httpx.AsyncClient, tmp_path: Path
) -> None:
    answer = await page.post("/files/upload", content=b"a file", headers=OWN)
    url = answer.json()["access_url"]
    assert (await page.get(url)).content == b"a file"
    assert (await page.head(url)).status_code == 200
    part = await page.get(url, headers={"range": "bytes=2-"})
    assert (part.status_code, part.content) == (206, b"file")
    cookies = page.cookies
    page.cookies = httpx.Cookies()
    try:
        assert (await page.get(url)).status_code == 401
    finally:
        page.cookies = cookies


async def test_the_page_learns_who_has_signed_in(page: httpx.AsyncClient, tmp_path: Path) -> None:
    found = (await page.get(SESSION)).json()
    assert (found["needs_key"], found["key"]["label"]) == (True, "laptop")
    assert found["key"]["scopes"] == ["files", "run"]
    nobody = {"needs_key": True, "key": None, "expires_at": None}
    sent = {"cookie": COOKIE.format("a-guess")}
    async with serving(settings_in(tmp_path / "keys", key="me:s3cret")) as client:
        assert (await client.get(SESSION)).json() == nobody
        guess = await client.get(SESSION, headers=sent)
        assert (guess.status_code, guess.json()) == (200, nobody)
        answer = await client.get(UNKNOWN_JOB, headers=sent)
        assert (answer.status_code, answer.json()["detail"]) == (
            401,
            "The session is over: sign in again.",
        )
    async with serving(settings_in(tmp_path / "open")) as client:
        for answer in (await client.get(SESSION), await client.post(SESSION, headers=OWN)):
            assert answer.json() == nobody | {"needs_key": False}
            assert "set-cookie" not in answer.headers


async def test_a_session_may_do_what_its_key_may_and_sees_its_requests(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    mine, yours = add_key(settings), add_key(settings)
    operator = add_key(settings, scopes=[Scope.ADMIN])
    async with serving(settings) as client:
        client.headers.update(OWN)
        await sign_in(client, mine)
        job = await submit(client)
        await until(client, job, "COMPLETED")
        # The pages of an operator, a request, and the list of requests.
        paths = "/metrics", f"/queue/{APP}/requests/{job}/status", REQUESTS
        for key, statuses, listed in (
            (mine, [403, 200, 200], [job]),
            (yours, [403, 404, 200], []),
            (operator, [200, 403, 200], [job]),
        ):
            await sign_in(client, key)
            answers = [await client.get(path) for path in paths]
            assert [answer.status_code for answer in answers] == statuses
            items = answers[-1].json()["items"]
            assert [item["request_id"] for item in items] == listed
        assert (await client.post(SUBMIT, json=request_of())).status_code == 403


async def test_a_key_in_a_header_goes_before_the_cookie(page: httpx.AsyncClient) -> None:
    assert (await page.get(UNKNOWN_JOB, headers=by_key("a:guess"))).status_code == 401
    assert (await page.get(f"{UNKNOWN_JOB}?fal_jwt_token=a.b.c")).status_code == 401


async def test_a_sign_out_ends_the_row_and_what_is_being_sent(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (client, settings, _):
        job = (await client.post(SUBMIT, json=request_of("sleep 3600"), headers=OWN)).json()
        cookie = COOKIE.format(client.cookies[NAME])
        watching = asyncio.create_task(client.get(f"{job['status_url']}/stream"))
        while (await client.get(job["status_url"])).json()["status"] != "IN_PROGRESS":
            await asyncio.sleep(0.02)

        for origin in ("http://localhost:8001", "https://evil.example"):
            answer = await client.delete(SESSION, headers={"origin": origin})
            assert answer.status_code == 403
        assert not watching.done()
        assert (await client.delete(SESSION, headers=OWN)).status_code == 204

        assert "COMPLETED" not in (await watching).text
        assert (await client.get(UNKNOWN_JOB, headers={"cookie": cookie})).status_code == 401
        assert rows_in(settings) == 0
        assert (await client.delete(SESSION, headers=OWN)).status_code == 204


def rows_in(settings: Settings) -> int:
    with closing(sqlite3.connect(settings.data / "jobs.sqlite3")) as db:
        [(count,)] = db.execute("SELECT count(*) FROM sessions")
    return int(count)


async def test_a_revoked_key_ends_its_sessions(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (client, settings, key):
        with keys_of(settings) as store:
            store.revoke(key.partition(":")[0])
        assert rows_in(settings) == 0
        while (answer := await client.get(UNKNOWN_JOB)).status_code == 404:
            await asyncio.sleep(0.02)
        assert answer.status_code == 401
        assert (await client.get(SESSION)).json()["key"] is None


async def test_a_configured_key_ends_its_sessions_with_its_secret(tmp_path: Path) -> None:
    cookies = httpx.Cookies()
    for key, status in (("me:s3cret", 404), ("me:s3cret", 404), ("me:other", 401), ("you:x", 401)):
        async with serving(settings_in(tmp_path, key=key)) as client:
            if not cookies:
                await sign_in(client, key)
                cookies = client.cookies
            client.cookies = cookies
            assert (await client.get(UNKNOWN_JOB)).status_code == status


# The table, and the copy that requests are checked against.


@pytest.fixture
def database(tmp_path: Path) -> Any:
    database = Database(tmp_path / "jobs.sqlite3")
    yield database
    database.close()


def a_key(key_id: str = "me", expires_at: float | None = None) -> ApiKey:
    credential = Credential(key_id, "s3cret")
    return ApiKey.from_credential(credential, key_id, created_at=0.0, expires_at=expires_at)


async def test_a_session_ends_after_twelve_hours_or_with_its_key(
    database: Database, clock: Clock
) -> None:
    store = SessionStore(database, now=clock)
    value, session = store.begin(a_key())
    short, _ = store.begin(a_key(expires_at=clock.now + 60))
    assert session.expires_at == clock.now + SESSION_S == clock.now + 12 * 3600
    assert store.find(value) == session

    clock.now += 60
    assert store.find(short) is None
    clock.now += SESSION_S - 61
    assert store.find(value) == session
    store.sweep()
    assert store.find(value) == session
    clock.now += 1
    assert store.find(value) is None
    store.sweep()
    with database.read() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM sessions").scalar_one() == 0


async def test_the_server_removes_those_that_are_over(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (client, settings, _):
        clock, services = ServerClock(), app_of(client).state.services
        heartbeat = Heartbeat(services.database, clock)
        sweeper = make_sweeper(settings, services, heartbeat, clock)
        await sweeper.sweep()
        assert rows_in(settings) == 1
        sql(settings.data / "jobs.sqlite3", "UPDATE sessions SET expires_at = 1")
        await sweeper.sweep()
        assert rows_in(settings) == 0


async def test_a_key_has_so_many_sessions(database: Database, clock: Clock) -> None:
    store = SessionStore(database, now=clock)
    other, _ = store.begin(a_key("you"))
    values = []
    for _ in range(SESSIONS_OF_KEY + 1):
        clock.now += 1
        values.append(store.begin(a_key())[0])
    assert [store.find(value) is None for value in values] == [True] + [False] * SESSIONS_OF_KEY
    assert store.find(other) is not None


async def test_a_poll_does_not_read_the_table_and_a_sign_out_is_seen_at_once(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = SessionCache(SessionStore(database, now=clock), clock=clock)
    value, session = cache.store.begin(a_key())
    reads = []

    def counted(store: SessionStore, value: str) -> Session | None:
        reads.append(value)
        return found(store, value)

    found = SessionStore.find
    monkeypatch.setattr(SessionStore, "find", counted)
    for _ in range(3):
        assert await cache.find(value) == session
    assert reads == [value]
    clock.now += 1
    assert await cache.find(value) == session
    assert len(reads) == 2
    cache.store.end(value)
    cache.forget()
    assert await cache.find(value) is None


async def test_a_backup_has_no_sessions(database: Database, clock: Clock, tmp_path: Path) -> None:
    SessionStore(database, now=clock).begin(a_key())
    copy_database(tmp_path / "jobs.sqlite3", tmp_path / "copy")
    with closing(sqlite3.connect(tmp_path / "copy")) as db:
        assert db.execute("SELECT count(*) FROM sessions").fetchall() == [(0,)]
