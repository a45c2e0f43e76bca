"""The target of fal's `proxyUrl`: which URLs it takes, and that it is a door like any other."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from asgi_calls import scope_of
from hypothesis import given
from hypothesis import strategies as st
from queue_calls import until
from servers import APP, BASE_URL, ENDPOINT, picture, request_of, serving, settings_in
from starlette.types import Message, Receive

from server.api.proxy import Target, target_of
from server.app import create_app
from server.fal.urls import FAL_HOSTS, Address, Service

PROXY = "/api/fal/proxy"
SUBMIT = f"https://queue.fal.run/{ENDPOINT}"
KEY = {"authorization": "Key me:s3cret"}
loop = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("url", "service", "path", "query"),
    [
        (f"https://fal.run/{ENDPOINT}", Service.RUN, f"/{ENDPOINT}", ""),
        (f"{SUBMIT}?fal_webhook=http%3A%2F%2Fa%2Fb", Service.QUEUE, f"/{ENDPOINT}", None),
        (f"{SUBMIT}/requests/x/status/?logs=1", Service.QUEUE, None, "logs=1"),
        ("https://rest.fal.ai/tokens/", Service.REST, "/tokens", ""),
        ("https://rest.alpha.fal.ai/tokens/?", Service.REST, "/tokens", ""),
        ("https://v3.fal.media/files/an-id/a%20b.png", Service.FILES, "/an-id/a b.png", ""),
        (f"https://queue.falrun.com/{ENDPOINT}", Service.QUEUE, f"/{ENDPOINT}", ""),
    ],
)
def test_a_url_of_fal_is_an_address_of_this_server(
    url: str, service: Service, path: str | None, query: str | None
) -> None:
    target = target_of([url])

    assert target is not None
    assert target.address.service is service
    assert target.address.path == (path or f"/{ENDPOINT}/requests/x/status")
    assert target.query == ("fal_webhook=http%3A%2F%2Fa%2Fb" if query is None else query)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/",
        f"/{ENDPOINT}",
        "queue.fal.run/x",
        f"http://queue.fal.run/{ENDPOINT}",
        f"HTTPS://queue.fal.run/{ENDPOINT}",
        f"ws://fal.run/{ENDPOINT}",
        "file:///etc/passwd",
        "https://",
        "https:///x",
        "https://fal.run",
        "https://evil.example/x",
        "https://evil.example/https://fal.run/x",
        f"https://fal.run.evil.example/{ENDPOINT}",
        f"https://evil-fal.run/{ENDPOINT}",
        f"https://xfal.run/{ENDPOINT}",
        f"https://my.fal.run/{ENDPOINT}",
        f"https://FAL.run/{ENDPOINT}",
        f"https://fal.run./{ENDPOINT}",
        f"https://fal.run:443/{ENDPOINT}",
        f"https://fal.run:/{ENDPOINT}",
        f"https://me@fal.run/{ENDPOINT}",
        f"https://me:s3cret@fal.run/{ENDPOINT}",
        f"https://fal.run@evil.example/{ENDPOINT}",
        f"https://evil.example\\@fal.run/{ENDPOINT}",
        f"https://fal.run\\.evil.example/{ENDPOINT}",
        f"https:\\\\fal.run/{ENDPOINT}",
        f"https:/fal.run/{ENDPOINT}",
        f"https:fal.run/{ENDPOINT}",
        f"//fal.run/{ENDPOINT}",
        f" https://fal.run/{ENDPOINT}",
        f"https://fal.run/{ENDPOINT}\n",
        f"https://fal.run/{ENDPOINT}#",
        f"https://fal.run/{ENDPOINT}#@evil.example",
        "https://fal.run/fal-ai%2fcosmos-predict-2.5/image-to-video",
        "https://fal.run/fal-ai%5Ccosmos-predict-2.5/image-to-video",
        "https://queue.fal.run/fal-ai\\cosmos-predict-2.5",
        f"https://queue.fal.run/{ENDPOINT}?x=\\",
        f"https://queue.fal.run//{ENDPOINT}",
        f"https://queue.fal.run/../{ENDPOINT}",
        f"https://queue.fal.run/%2e%2e/{ENDPOINT}",
        f"https://queue.fal.run/{ENDPOINT}%00",
        f"https://queue.fal.run/{ENDPOINT}?x=\u00fc",
        f"https://queue.fal.run/{ENDPOINT}?x y",
        f"https://\u0192al.run/{ENDPOINT}",
        f"https://127.0.0.1:8000/{ENDPOINT}",
        f"https://localhost/{ENDPOINT}",
        f"http://localhost:8000{PROXY}",
        f"https://localhost:8000{PROXY}",
        "https://[::1]/x",
        "https://169.254.169.254/latest/meta-data/",
        "https://api.fal.example/v1/models",
        f"https://fal.run/{ENDPOINT}, https://fal.run/{ENDPOINT}",
    ],
)
def test_any_other_url_is_refused(url: str) -> None:
    assert target_of([url]) is None


def test_one_request_has_one_target() -> None:
    assert target_of([]) is None
    assert target_of([SUBMIT, SUBMIT]) is None


_PIECES = ["https:", "http:", "/", "//", "\\", "@", ":443", "#", "?", "%2f", "..", " ", "fal-ai"]


@given(st.text() | st.lists(st.sampled_from([*_PIECES, *FAL_HOSTS, "evil.example"])).map("".join))
def test_no_url_breaks_it_and_none_leads_to_another_host(url: str) -> None:
    target = target_of([url])

    if target is not None:
        host = httpx.URL(url).host
        assert target == Target(Address(FAL_HOSTS[host], target.address.path), target.query)
        assert not httpx.URL(url).userinfo and httpx.URL(url).port is None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that needs a key; the client does not send it by itself."""
    settings = settings_in(tmp_path_factory.mktemp("server"), key="me:s3cret")
    async with serving(settings) as client:
        yield client


async def through(
    client: httpx.AsyncClient, method: str, target: str, body: Any = None, **headers: str
) -> httpx.Response:
    """Send a request as fal's JavaScript client does when it has a `proxyUrl`."""
    given = KEY | {"x-fal-target-url": target} | headers
    content = None if body is None else json.dumps(body)
    return await client.request(method, PROXY, content=content, headers=given)


@loop
async def test_a_run_through_the_proxy(client: httpx.AsyncClient) -> None:
    answer = await through(client, "POST", f"https://fal.run/{ENDPOINT}", request_of(seed=7))

    assert answer.status_code == 200
    assert answer.headers["x-fal-billable-units"] == "1"
    assert answer.json()["seed"] == 7
    assert answer.json()["video"]["url"].startswith(f"{BASE_URL}/files/")


@loop
async def test_submit_status_result_and_cancel_through_the_proxy(client: httpx.AsyncClient) -> None:
    job = (await through(client, "POST", SUBMIT, request_of())).json()
    request = f"https://queue.fal.run/{APP}/requests/{job['request_id']}"

    assert job["status_url"] == f"{BASE_URL}/queue/{APP}/requests/{job['request_id']}/status"
    while True:
        status = await through(client, "GET", f"{request}/status?logs=1")
        assert status.status_code in (200, 202)
        if status.json()["status"] == "COMPLETED":
            break
    assert isinstance(status.json()["logs"], list), "the target's query counts"
    assert status.headers["x-fal-request-id"] == job["request_id"]
    result = await through(client, "GET", request)
    assert result.json()["video"]["url"].startswith(f"{BASE_URL}/files/")
    late = await through(client, "PUT", f"{request}/cancel")
    assert (late.status_code, late.json()) == (400, {"status": "ALREADY_COMPLETED"})


@loop
async def test_an_upload_begins_through_the_proxy_and_its_url_is_ours(
    client: httpx.AsyncClient,
) -> None:
    """fal's client puts the bytes to that URL by itself, past the proxy and with no key."""
    target = "https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3"
    wanted = {"file_name": "gr\u00fc\u00dfe.png", "content_type": "image/png"}
    urls = (await through(client, "POST", target, wanted)).json()

    assert urls["upload_url"].startswith(f"{BASE_URL}/files/")
    assert urls["file_url"].startswith(f"{BASE_URL}/files/")
    headers = {"content-type": "image/png"}
    put = await client.put(urls["upload_url"], content=picture(), headers=headers)
    assert put.is_success, put.text
    assert (await client.get(urls["file_url"])).content == picture()
    run = request_of() | {"image_url": urls["file_url"]}
    answer = await through(client, "POST", f"https://fal.run/{ENDPOINT}", run)
    assert answer.status_code == 200, answer.text


@loop
async def test_what_fal_s_own_proxy_refuses_goes_through_too(client: httpx.AsyncClient) -> None:
    multipart = "https://rest.fal.ai/storage/upload/initiate-multipart?storage_type=fal-cdn-v3"
    wanted = {"file_name": "a.png", "content_type": "image/png"}
    urls = (await through(client, "POST", multipart, wanted)).json()
    apps = {"allowed_apps": [APP.rpartition("/")[2]], "token_expiration": 120}
    token = await through(client, "POST", "https://rest.fal.ai/tokens/", apps)

    assert urls["upload_url"].startswith(f"{BASE_URL}/files/")
    assert token.status_code == 200
    run = await client.post(
        PROXY,
        headers={"x-fal-target-url": f"https://fal.run/{ENDPOINT}?fal_jwt_token={token.json()}"},
        json=request_of(),
    )
    assert run.status_code == 200, "a token in the target's query opens what it is for"


@loop
async def test_a_prefix_of_the_public_url_stays(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = settings_in(
        tmp_path_factory.mktemp("server"), public_url="https://videos.example/cosmos"
    )
    async with serving(settings) as client:
        job = (await through(client, "POST", SUBMIT, request_of())).json()
        await until(client, job["request_id"], "COMPLETED")

    assert job["response_url"].startswith(f"https://videos.example/cosmos/queue/{APP}/requests/")


@loop
async def test_a_stream_comes_through_event_by_event(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    settings = settings_in(tmp_path_factory.mktemp("server"), worker="workers:SlowLoad")
    loading = settings.weights / "loading"
    loading.touch()
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client,
    ):
        job = (await through(client, "POST", SUBMIT, request_of())).json()["request_id"]
        target = f"https://queue.fal.run/{APP}/requests/{job}/status/stream?logs=1"
        sent: asyncio.Queue[Message] = asyncio.Queue()
        headers = [(b"host", b"localhost:8000"), (b"x-fal-target-url", target.encode())]
        scope = scope_of("GET", PROXY.encode(), headers)
        call = asyncio.create_task(app(scope, _stay(), sent.put))
        start, event = await sent.get(), await sent.get()
        assert dict(start["headers"])[b"content-type"].startswith(b"text/event-stream")
        assert b'"IN_QUEUE"' in event["body"], "the first event comes before there is a worker"
        loading.unlink()
        await call
        bodies = [sent.get_nowait()["body"] for _ in range(sent.qsize())]
        assert b'"COMPLETED"' in b"".join(bodies)


def _stay() -> Receive:
    """A caller with an empty body who never goes away."""

    async def receive() -> Message:
        if not asked:
            asked.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    asked: list[bool] = []
    return receive


@loop
async def test_errors_come_through_as_they_are(client: httpx.AsyncClient) -> None:
    invalid = await through(client, "POST", f"https://fal.run/{ENDPOINT}", {})
    unknown = await through(client, "POST", "https://fal.run/fal-ai/flux/dev", {})
    get = await through(client, "GET", f"https://fal.run/{ENDPOINT}")

    assert invalid.status_code == 422
    assert [item["loc"][1] for item in invalid.json()["detail"]] == ["prompt", "image_url"]
    assert invalid.headers["x-fal-billable-units"] == "0"
    assert unknown.status_code == 404
    assert unknown.json() == {"detail": "Path /fal-ai/flux/dev not found"}
    assert get.status_code == 405


@loop
@pytest.mark.parametrize("target", [SUBMIT, f"https://fal.run/{ENDPOINT}"])
async def test_it_lends_nobody_a_key(client: httpx.AsyncClient, target: str) -> None:
    without = await client.post(PROXY, headers={"x-fal-target-url": target}, json=request_of())
    wrong = await through(client, "POST", target, request_of(), authorization="Key me:wrong")

    for answer in (without, wrong):
        assert answer.status_code == 401
        assert isinstance(answer.json()["detail"], str)


@loop
async def test_a_request_of_another_key_stays_hidden(client: httpx.AsyncClient) -> None:
    unknown = f"https://queue.fal.run/{APP}/requests/7b1f2a0c-0000-4000-8000-000000000000/status"

    assert (await through(client, "GET", unknown)).status_code == 404
    assert (await client.get(PROXY, headers={"x-fal-target-url": unknown})).status_code == 401


@loop
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-fal-target-url", "https://evil.example/")],
        [("x-fal-target-url", f"{BASE_URL}{PROXY}")],
        [("x-fal-target-url", SUBMIT), ("x-fal-target-url", SUBMIT)],
        [("x-fal-target-url", "")],
    ],
)
async def test_what_is_no_target_is_refused_in_fal_s_words(
    client: httpx.AsyncClient, method: str, headers: list[tuple[str, str]]
) -> None:
    answer = await client.request(method, PROXY, headers=[*KEY.items(), *headers])

    assert answer.status_code == 400
    assert answer.json() == "Invalid request"
    assert answer.headers["x-fal-request-id"]


@loop
@pytest.mark.parametrize("method", ["DELETE", "PATCH", "HEAD", "OPTIONS"])
async def test_other_methods_are_refused(client: httpx.AsyncClient, method: str) -> None:
    answer = await through(client, method, SUBMIT)

    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, POST, PUT"


@loop
async def test_a_target_means_nothing_on_other_paths(client: httpx.AsyncClient) -> None:
    headers = {"x-fal-target-url": SUBMIT}

    assert (await client.get("/health/live", headers=headers)).json() == {"status": "live"}
    assert (await client.post("/proxy", headers=headers)).status_code == 404
    assert (await client.post("/api/fal/proxy/x", headers=headers)).status_code == 404
    on_fal_host = await client.post(PROXY, headers=headers | KEY | {"host": "fal.run"})
    assert on_fal_host.status_code == 404
