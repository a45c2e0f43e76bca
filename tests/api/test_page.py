"""The page for people as it is served; tests/browser/ opens it in a browser."""

import re

import httpx
import pytest
from paths import ROOT
from servers import APP, HEIGHT, WIDTH, serving, settings_in

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOLDER = ROOT / "server" / "api" / "page"
MAX_FIRST_PAINT_BYTES = 200_000
_REFERENCE = re.compile(r"""(?:href|src)="(page/[^"]+)"|^import [^;]*?"(\.[^"]+)";""", re.M)


def directives(policy: str) -> dict[str, list[str]]:
    """A Content-Security-Policy by its directives."""
    return {name: values for name, *values in (part.split() for part in policy.split("; "))}


async def test_the_page_runs_nothing_but_its_files(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = directives(answer.headers["content-security-policy"])
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == ["'self'"]
    assert "unsafe" not in answer.headers["content-security-policy"]


async def test_the_first_paint_is_small(client: httpx.AsyncClient) -> None:
    """The page, and all that it and its modules name before a view is opened."""
    waiting, sizes = ["/"], dict[str, int]()
    while waiting:
        path = waiting.pop()
        if path in sizes:
            continue
        answer = await client.get(path)
        assert (path, answer.status_code) == (path, 200)
        sizes[path] = len(answer.content)
        for linked, imported in _REFERENCE.findall(answer.text):
            waiting.append(str(httpx.URL("/" if linked else path).join(linked or imported)))
    assert {"/page/main.js", "/page/style.css", "/page/vendor/preact.js"} <= sizes.keys()
    assert sum(sizes.values()) <= MAX_FIRST_PAINT_BYTES, sizes


async def test_every_file_is_served_as_what_it_is(client: httpx.AsyncClient) -> None:
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for path in FOLDER.rglob("*.*"):
        if path.suffix in kinds:
            answer = await client.get(f"/page/{path.relative_to(FOLDER)}")
            assert answer.content == path.read_bytes()
            assert answer.headers["content-type"].startswith(kinds[path.suffix])
            assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_file_that_the_browser_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    answer = await client.get("/page/main.js")
    assert answer.headers["cache-control"] == "no-cache"

    again = await client.get("/page/main.js", headers={"if-none-match": answer.headers["etag"]})

    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["nothing.js", "index.html", "vendor", "../router.py", "%2e%2e/a"])
async def test_nothing_else_is_served(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(f"/page/{path}")).status_code == 404


async def test_the_page_is_told_what_the_server_makes(client: httpx.AsyncClient) -> None:
    info = (await client.get("/page/server.json")).json()

    assert (info["width"], info["height"], info["fps"]) == (WIDTH, HEIGHT, 16)
    assert info["needs_key"] is False
    media = {each["id"]: each["media"] for each in info["endpoints"]}
    assert media[f"{APP}/image-to-video"] == {"image_url": "image"}
    assert media[f"{APP}/text-to-video"] == {}


async def test_behind_a_prefix_the_page_asks_under_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    public = settings_in(
        tmp_path_factory.mktemp("prefix"), public_url="http://localhost:8000/cosmos"
    )
    async with serving(public) as client:
        assert '<base href="/cosmos/">' in (await client.get("/")).text


async def test_the_licences_of_the_libraries_are_with_them(client: httpx.AsyncClient) -> None:
    licences = (await client.get("/page/vendor/LICENSES.txt")).text
    for name in ("htm", "preact", "uplot"):
        assert f"{name}, from npm:" in licences
    assert "MIT License" in licences and "Apache License" in licences
