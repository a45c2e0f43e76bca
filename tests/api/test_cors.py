"""Which pages of other origins may read our answers, over the real app."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from queue_calls import SUBMIT, submit, until
from servers import ENDPOINT, serving, settings_in

from server.hosts import read_origin

APP_ORIGIN = "https://app.example"
KEY = "me:s3cret"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-fal-queue-priority",
}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client that speaks for a page of an origin that is allowed; callers need a key."""
    folder = tmp_path_factory.mktemp("server")
    settings = settings_in(folder, cors_origins=f"{APP_ORIGIN},http://localhost:3000", key=KEY)
    async with serving(settings) as client:
        client.headers["origin"] = APP_ORIGIN
        yield client


@pytest.mark.parametrize("method", ["POST", "PUT", "GET", "DELETE"])
@pytest.mark.parametrize(
    "path", [f"/{ENDPOINT}", SUBMIT, "/api/fal/proxy", "/files/upload", "/v1/keys/an-id"]
)
async def test_a_preflight_is_granted_without_a_key(
    page: httpx.AsyncClient, method: str, path: str
) -> None:
    asking = PREFLIGHT | {"access-control-request-method": method}
    answer = await page.options(path, headers=asking)

    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == APP_ORIGIN
    assert method in answer.headers["access-control-allow-methods"].split(", ")
    granted = answer.headers["access-control-allow-headers"].split(", ")
    assert set(asking["access-control-request-headers"].split(",")) <= set(granted)
    assert {"x-fal-target-url", "x-fal-object-lifecycle", "x-fal-request-timeout"} <= set(granted)
    assert {"mcp-protocol-version", "mcp-method", "mcp-name"} <= set(granted)
    assert answer.headers["vary"] == "Origin"
    assert answer.content == b""


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("GET", "/health/live", 200), ("GET", "/nothing", 404), ("GET", f"/{ENDPOINT}", 405)),
        *(("POST", SUBMIT, 401), ("POST", "/mcp", 401)),
    ],
)
async def test_every_answer_can_be_read_errors_too(
    page: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await page.request(method, path)

    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == APP_ORIGIN
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-fal-request-id", "x-fal-error-type", "x-fal-billable-units"} <= set(exposed)


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.example", "null", "http://app.example", "https://app.example:8443"),
        *("https://app.example.evil.example", "https://APP.example", "*", ""),
    ],
)
async def test_other_origins_are_told_nothing(page: httpx.AsyncClient, origin: str) -> None:
    plain = await page.get("/health/live", headers={"origin": origin})
    preflight = await page.options(SUBMIT, headers=PREFLIGHT | {"origin": origin})

    assert (plain.status_code, preflight.status_code) == (200, 405)
    for answer in (plain, preflight):
        assert not any(name.startswith("access-control") for name in answer.headers)
        assert answer.headers["vary"] == "Origin"


async def test_no_answer_allows_every_origin_or_credentials(page: httpx.AsyncClient) -> None:
    for answer in (await page.get("/health/live"), await page.options(SUBMIT, headers=PREFLIGHT)):
        assert "*" not in answer.headers["access-control-allow-origin"]
        assert "access-control-allow-credentials" not in answer.headers


async def test_a_cache_is_told_that_the_origin_matters_even_without_one(
    page: httpx.AsyncClient,
) -> None:
    without = page.build_request("GET", "/health/live")
    del without.headers["origin"]

    answer = await page.send(without)

    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in answer.headers


async def test_an_unforeseen_error_can_be_read_too(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    settings = settings_in(tmp_path_factory.mktemp("broken"), cors_origins=APP_ORIGIN)
    async with serving(settings) as client:
        job = await submit(client, sync_mode=True)
        await until(client, job, "COMPLETED")
        for file in (settings.data / "files").glob("*/*"):
            file.unlink()
            file.mkdir()
        answer = await client.get(
            f"/queue/{ENDPOINT}/requests/{job}", headers={"origin": APP_ORIGIN}
        )

    assert answer.status_code == 500
    assert answer.headers["access-control-allow-origin"] == APP_ORIGIN


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://App.Example", APP_ORIGIN),
        ("https://app.example:443", APP_ORIGIN),
        ("http://localhost:3000", "http://localhost:3000"),
        ("https://app.example:80", "https://app.example:80"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
async def test_origins_are_read_as_browsers_write_them(text: str, origin: str) -> None:
    assert read_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    ["*", "null", "app.example", "https://app.example/", "https://*.example", "https://", "//a"],
)
async def test_what_is_no_exact_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an origin: give each as"):
        read_origin(text)
