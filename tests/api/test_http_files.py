"""The files of results, and health."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from api_keys import add_key, by_key
from queue_calls import RUN
from s3_server import serving_objects
from servers import BASE_URL, picture, request_of, serving, settings_in
from upload_calls import kept, upload

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["folder", "bucket"])
async def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of one server, whose files are in a folder or in a bucket."""
    folder = tmp_path_factory.mktemp("server")
    is_local = request.param == "folder"
    async with serving(settings_in(folder)) if is_local else serving_objects(folder) as client:
        yield client


async def test_a_file_is_served_whole_in_part_and_by_its_head(client: httpx.AsyncClient) -> None:
    url = (await client.post(RUN, json=request_of("bytes 3000000"))).json()["video"]["url"]
    whole = await client.get(url)
    head = await client.head(url)
    part = await client.get(url, headers={"range": "bytes=1000000-1000009"})
    beyond = await client.get(url, headers={"range": "bytes=3000000-"})

    assert (whole.status_code, len(whole.content)) == (200, 3_000_000)
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["content-type"] == "video/mp4"
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == "3000000"
    assert part.status_code == 206
    assert part.content == whole.content[1_000_000:1_000_010]
    assert beyond.status_code == 416


async def test_a_file_is_not_served_under_another_name(client: httpx.AsyncClient) -> None:
    url = (await client.post(RUN, json=request_of())).json()["video"]["url"]

    assert (await client.get(url.replace("video.mp4", "page.html"))).status_code == 404


async def test_several_ranges_and_ranges_from_the_end_are_served(
    client: httpx.AsyncClient,
) -> None:
    url = await upload(client, bytes(range(256)), "text/plain")
    whole = await client.get(url)
    last = await client.get(url, headers={"range": "bytes=-6"})
    two = await client.get(url, headers={"range": "bytes=0-1,4-5"})
    head = await client.head(url, headers={"range": "bytes=0-1"})
    changed = await client.get(url, headers={"range": "bytes=0-1", "if-range": '"other"'})
    same = {"range": "bytes=0-1", "if-range": whole.headers["etag"]}

    assert (last.status_code, last.content) == (206, bytes(range(250, 256)))
    assert last.headers["content-range"] == "bytes 250-255/256"
    # One in a bucket is sent whole for several.
    assert two.status_code == 206 or two.content == whole.content
    assert (head.status_code, head.headers["content-length"], head.content) == (206, "2", b"")
    assert (changed.status_code, len(changed.content)) == (200, 256)
    assert (await client.get(url, headers=same)).status_code == 206


@pytest.mark.parametrize("header", ["bytes=x-y", "lines=1-2", "bytes=9-1", "bytes"])
async def test_a_range_that_is_none_does_no_harm(client: httpx.AsyncClient, header: str) -> None:
    url = await upload(client, b"0123456789")

    assert (await client.get(url, headers={"range": header})).status_code in (200, 400, 416)


HTML = b"<!doctype html><script>alert(1)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'


@pytest.mark.parametrize(
    ("data", "content_type", "disposition"),
    [
        (picture(), "image/png", "inline"),
        (picture(), "text/html", "attachment"),
        (HTML, "text/html", "attachment"),
        (HTML, "image/png", "attachment"),
        (SVG, "image/svg+xml", "attachment"),
        (HTML, "video/mp4", "attachment"),
        (b"", "image/png", "attachment"),
    ],
)
async def test_a_browser_shows_pictures_and_runs_nothing(
    client: httpx.AsyncClient, data: bytes, content_type: str, disposition: str
) -> None:
    headers = (await client.get(await upload(client, data, content_type, "x.y"))).headers

    assert headers["content-type"] == content_type
    assert headers["content-disposition"] == f'{disposition}; filename="x.y"'
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none';")


async def test_files_are_read_without_a_key(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    key = add_key(settings)
    async with serving(settings) as client:
        url = await upload(client, picture(), **by_key(key))

        assert (await client.get(url)).content == picture()
        assert (await client.delete(url, headers=by_key(key))).status_code == 405
        assert (await client.get(url)).status_code == 200


async def test_a_file_that_vanished_from_the_disk_is_not_found(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        url = await upload(client, picture())
        [file] = kept(tmp_path)
        next(tmp_path.rglob(file)).unlink()

        assert (await client.get(url)).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/files/../jobs.sqlite3",
        "/files/..%2f..%2fjobs.sqlite3/x",
        "/files/%2e%2e/jobs.sqlite3",
        "/files/x/../../../etc/passwd",
        "/files//etc/passwd",
        "/files/x",
        "/files/",
        "/files/x/y/z",
        "/files/%00/x",
        "/files/x/%ff",
    ],
)
async def test_a_path_leads_to_no_other_file(client: httpx.AsyncClient, path: str) -> None:
    # httpx would tidy the path up.
    url = httpx.URL(f"{BASE_URL}/", params=None).copy_with(raw_path=path.encode())

    assert (await client.get(url)).status_code == 404


async def test_prepared_pictures_have_no_url(client: httpx.AsyncClient) -> None:
    await client.post(RUN, json=request_of())
    sent = f"image-{hashlib.sha256(picture()).hexdigest()}"

    assert (await client.get(f"/files/{sent}/image")).status_code == 404


async def test_health_says_that_the_process_lives_and_a_worker_is_loaded(
    client: httpx.AsyncClient,
) -> None:
    await client.post(RUN, json=request_of())
    live, ready = await client.get("/health/live"), await client.get("/health/ready")

    assert (live.status_code, live.json()) == (200, {"status": "live"})
    assert ready.status_code == 200
    assert ready.json()["slots"][0]["name"] == "cpu"
