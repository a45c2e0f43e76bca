"""Who is let in, and what an answer's URLs begin with, over the real app."""

import asyncio
import socket
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import httpx
import pytest
from asgi_calls import call, scope_of
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st
from queue_calls import SUBMIT, until
from servers import APP, BASE_URL, ENDPOINT, request_of, serving, settings_in
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.api.access import AccessRules
from server.api.middleware import EntryMiddleware
from server.app import create_app
from server.hosts import HostRule

FAL_NAMES = ["fal.run", "queue.fal.run", "rest.fal.ai", "v3.fal.media", "queue.falrun.com"]
LOOPBACK = ["localhost:8000", "LOCALHOST.", "queue.localhost:8443", "127.0.0.1:8000", "[::1]:8000"]
FOREIGN = ["evil.example", "fal.run.evil.example", "localhost.evil.example", "127.1"]
ELSEWHERE = ["192.168.1.20:8000", "[2001:db8::1]"]
KEY = "me:s3cret"


async def live(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    """Ask for what needs no key; each _ in a header's name is a -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.get("/health/live", headers=named)


async def submit(client: httpx.AsyncClient, path: str = SUBMIT, **headers: str) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await client.post(path, json=request_of(), headers=named)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_without_keys_only_this_machine_and_fal_s_names_are_served(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        for host in LOOPBACK + FAL_NAMES:
            assert (await live(client, host=host)).status_code == 200, host
        for host in [*FOREIGN, *ELSEWHERE, socket.gethostname()]:
            answer = await live(client, host=host)
            assert answer.status_code == 421, host
            assert "COSMOS_ALLOWED_HOSTS" in answer.json()["detail"]
            assert answer.headers["x-fal-request-id"]


async def test_names_that_the_settings_list_are_served_too(tmp_path: Path) -> None:
    settings = settings_in(
        tmp_path, allowed_hosts="gpu.example,box", public_url="https://videos.example:8443/v"
    )
    async with serving(settings) as client:
        for host in ("gpu.example:8000", "BOX", "queue.gpu.example", "videos.example"):
            assert (await live(client, host=host)).status_code == 200, host
        assert (await live(client, host="a.gpu.example")).status_code == 421


async def test_with_keys_any_well_formed_name_is_served(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, key=KEY)) as client:
        for host in LOOPBACK + FAL_NAMES + FOREIGN + ELSEWHERE:
            assert (await live(client, host=host)).status_code == 200, host
        for host in ("a b", "a/b", "me@localhost", "localhost:x", ""):
            answer = await live(client, host=host)
            assert (answer.status_code, answer.json()["error_type"]) == (400, "bad_request")


async def test_with_keys_and_a_public_url_only_known_names_are_served(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, key=KEY, public_url="https://videos.example")
    async with serving(settings) as client:
        known = ["videos.example", "fal.run", socket.gethostname(), *ELSEWHERE, *LOOPBACK]
        for host in known:
            assert (await live(client, host=host)).status_code == 200, host
        for host in FOREIGN:
            assert (await live(client, host=host)).status_code == 421, host


async def test_a_request_has_one_host(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, key=KEY)) as client:
        hosts = [("host", "localhost"), ("host", "evil.example")]
        assert (await client.get("/health/live", headers=hosts)).status_code == 400


async def test_without_keys_nothing_that_says_it_came_through_a_proxy_is_served(
    tmp_path: Path,
) -> None:
    async with serving(settings_in(tmp_path)) as client:
        for name in ("Via", "Forwarded", "X-Forwarded-For", "X-Real-IP", "CF-Connecting-IP"):
            answer = await client.get("/health/live", headers={name: "127.0.0.1"})
            assert answer.status_code == 403
            assert name.lower() in answer.json()["detail"]
            assert "COSMOS_AUTH=on" in answer.json()["detail"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS"])
@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost", "https://localhost:8000", "http://a b"],
)
async def test_without_keys_no_page_of_another_origin_is_served(
    tmp_path: Path, method: str, origin: str
) -> None:
    async with serving(settings_in(tmp_path)) as client:
        for path in (SUBMIT, "/health/live", "/api/fal/proxy"):
            answer = await client.request(method, path, headers={"origin": origin})
            assert answer.status_code == 403
            assert origin in answer.json()["detail"]


@pytest.mark.parametrize(
    ("header", "value", "setting"),
    [
        *(("origin", value, "cors_origins") for value in ("https://evil.example", "app://page")),
        *(("origin", value, None) for value in ("null", "http://a b", "https://A", "file://")),
        *(("host", value, "allowed_hosts") for value in FOREIGN + ELSEWHERE),
    ],
)
async def test_what_a_refusal_advises_helps_and_is_accepted(
    tmp_path: Path, header: str, value: str, setting: str | None
) -> None:
    async with serving(settings_in(tmp_path)) as client:
        detail = (await live(client, **{header: value})).json()["detail"]
    assert ("COSMOS_" in detail) == (setting is not None)
    if setting is None:
        return
    assert f"COSMOS_{setting.upper()}" in detail
    named = settings_in(tmp_path, **{setting: value.removesuffix(":8000")})
    async with serving(named) as client:
        assert (await live(client, **{header: value})).status_code == 200


async def test_without_keys_our_own_pages_and_listed_ones_are_served(tmp_path: Path) -> None:
    settings = settings_in(
        tmp_path, cors_origins="https://app.example", public_url="https://videos.example/v"
    )
    async with serving(settings) as client:
        for origin in (BASE_URL, "https://app.example", "https://videos.example"):
            assert (await live(client, origin=origin)).status_code == 200, origin
        page = "http://127.0.0.1:8000"
        assert (await live(client, origin=page)).status_code == 403
        assert (await live(client, origin=page, host="127.0.0.1:8000")).status_code == 200


async def test_with_keys_the_origin_is_nothing_that_is_checked(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, key=KEY)) as client:
        answer = await live(client, origin="https://evil.example")

    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


async def test_a_trusted_proxy_says_what_urls_begin_with(tmp_path: Path) -> None:
    told = {
        "x_forwarded_proto": "https",
        "x_forwarded_host": "videos.example",
        "x_forwarded_prefix": "/cosmos",
        "authorization": f"Key {KEY}",
    }
    for trusted, base in (
        ("127.0.0.0/8", "https://videos.example/cosmos"),
        ("10.0.0.0/8,::1", BASE_URL),
        ("", BASE_URL),
    ):
        settings = settings_in(tmp_path, key=KEY, forwarded_allow_ips=trusted)
        async with serving(settings) as client:
            job = await submit(client, **told)
            assert job["status_url"].startswith(f"{base}/queue/{APP}/requests/"), trusted


async def test_a_forwarded_host_is_vetted_like_any_other(tmp_path: Path) -> None:
    settings = settings_in(
        tmp_path, key=KEY, forwarded_allow_ips="127.0.0.1", public_url="https://videos.example"
    )
    async with serving(settings) as client:
        assert (await live(client, x_forwarded_host="evil.example")).status_code == 421
        assert (await live(client, x_forwarded_host="a/b")).status_code == 400
        assert (await live(client, x_forwarded_host="videos.example")).status_code == 200


@pytest.mark.parametrize(
    ("path", "host", "queue"),
    [
        (f"/{ENDPOINT}", "queue.fal.run", "http://queue.fal.run"),
        (f"/{ENDPOINT}", "QUEUE.fal.run.:8000", "http://queue.fal.run:8000"),
        (f"/{ENDPOINT}", "queue.localhost:8000", "http://queue.localhost:8000/queue"),
        (SUBMIT, "localhost:8000", "http://localhost:8000/queue"),
        (f"{SUBMIT}/", "LocalHost.:80", "http://localhost/queue"),
        (SUBMIT, "[::1]:8000", "http://[::1]:8000/queue"),
    ],
)
async def test_the_urls_of_a_request_are_on_the_base_that_the_caller_used(
    tmp_path: Path, path: str, host: str, queue: str
) -> None:
    async with serving(settings_in(tmp_path)) as client:
        job = await submit(client, path, host=host)
        request = f"{queue}/{APP}/requests/{job['request_id']}"
        assert job["response_url"] == request
        assert job["status_url"] == f"{request}/status"
        assert job["cancel_url"] == f"{request}/cancel"
        for url in (job["status_url"], f"{job['status_url']}/?logs=0"):
            assert (await client.get(url)).status_code in (200, 202)
        await until(client, job["request_id"], "COMPLETED")
        file = (await client.get(f"{job['response_url']}/")).json()["video"]["url"]
        assert (await client.get(file)).status_code == 200


async def test_short_and_long_paths_work_with_and_without_a_slash(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        job = (await submit(client))["request_id"]
        await until(client, job, "COMPLETED")
        for prefix in (f"/queue/{APP}", SUBMIT):
            for path in (f"/requests/{job}/status", f"/requests/{job}"):
                for slash in ("", "/"):
                    answer = await client.get(f"{prefix}{path}{slash}?logs=0")
                    assert answer.status_code == 200, answer.url
                    assert "location" not in answer.headers


async def test_run_and_queue_of_fal_are_told_apart_by_their_hosts(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        path = f"/{ENDPOINT}"
        run = await client.post(path, json=request_of(), headers={"host": "fal.run"})
        assert "video" in run.json()
        assert (await submit(client, path, host="queue.fal.run"))["status"] == "IN_QUEUE"


def mostly(*plausible: bytes) -> st.SearchStrategy[list[bytes]]:
    """What may stand in a header: something plausible or anything at all, once or twice."""
    return st.lists(st.sampled_from(plausible) | st.binary(max_size=20), min_size=1, max_size=2)


HEADERS = st.fixed_dictionaries(
    {b"host": st.just([b"localhost"]) | mostly(b"fal.run", b"[::1]", b"evil.example")},
    optional={
        b"origin": mostly(b"https://app.example", b"http://localhost", b"null"),
        b"access-control-request-method": mostly(b"POST"),
        b"x-fal-target-url": mostly(b"https://fal.run/x", b"https://rest.fal.ai/a?b"),
        b"x-forwarded-host": mostly(b"fal.run", b"evil.example"),
        b"x-forwarded-proto": mostly(b"https"),
        b"x-forwarded-prefix": mostly(b"/v", b"//v"),
        b"x-forwarded-for": mostly(b"127.0.0.1, ::1"),
    },
)


@tried(max_examples=300)
@given(
    method=st.sampled_from(["GET", "POST", "OPTIONS", "\u00fc"]),
    raw_path=st.sampled_from([b"/api/fal/proxy", b"/health/live"]) | st.binary(max_size=20),
    query=st.binary(max_size=20),
    headers=HEADERS,
    trusting=st.booleans(),
)
def test_whatever_is_sent_has_an_answer(
    method: str, raw_path: bytes, query: bytes, headers: dict[bytes, list[bytes]], trusting: bool
) -> None:
    """And what is let in has a base URL on a host that is known, and the query that was sent."""
    reached: list[Scope] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope)
        await Response()(scope, receive, send)

    known = HostRule(frozenset({"localhost", "fal.run"}), addresses=False, every_name=False)
    rules = AccessRules(
        hosts=known,
        origins=frozenset({"https://app.example"}),
        own_origins=frozenset(),
        trusted_proxies=(ip_network("127.0.0.0/8"),) if trusting else (),
        public_url=None,
        needs_key=trusting,
    )
    sent_headers = [(name, value) for name, values in headers.items() for value in values]
    scope = scope_of(method, b"/", sent_headers) | {"raw_path": raw_path, "query_string": query}

    told: list[tuple[str, int, float]] = []
    entry = EntryMiddleware(inner, rules, lambda *answer: told.append(answer))
    sent = asyncio.run(call(entry, scope))

    assert [status for _, status, _ in told] == [sent[0]["status"]]
    assert sent[0]["status"] in (200, 204, 400, 403, 404, 405, 421)
    assert b"x-fal-request-id" in dict(sent[0]["headers"])
    for let_in in reached:
        parts = urlsplit(let_in["state"]["base_url"])
        assert known.allows(parts.netloc) and parts.scheme in ("http", "https")
        if raw_path != b"/api/fal/proxy":
            let_in_query = Request(let_in).url.query
            assert unquote_to_bytes(let_in_query) == unquote_to_bytes(query)


async def test_a_websocket_is_refused(tmp_path: Path) -> None:
    app = create_app(settings_in(tmp_path))
    path = f"/{ENDPOINT}/realtime".encode()
    scope = scope_of("GET", path, [(b"host", b"fal.run")]) | {"type": "websocket"}

    sent = await call(app, scope)

    assert sent == [{"type": "websocket.close"}]
