"""A server whose files are in a bucket, and what becomes of its callers while that is away."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import httpx
import pytest
import pytest_asyncio
from asgi_calls import Connection, app_of
from queue_calls import RUN, result_of, status_of, submit, until_prepared
from s3_server import serving_objects
from servers import picture, request_of
from structlog.testing import capture_logs
from upload_calls import INITIATE_MULTIPART, UPLOAD, complete, initiate, put, upload

from server.disk import MIB
from server.errors import FilesAway
from server.files.s3 import S3Files

pytestmark = pytest.mark.asyncio(loop_scope="module")

AWAY = "The store of the server's files is away."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of one server for all tests here, with its files as objects in memory."""
    async with serving_objects(tmp_path_factory.mktemp("server")) as client:
        yield client


def files_of(client: httpx.AsyncClient) -> S3Files:
    files: S3Files = app_of(client).state.services.files
    return files


def take_away(files: S3Files, patch: pytest.MonkeyPatch) -> None:
    """Let nobody use the bucket until the patch is undone."""

    def check() -> None:
        raise FilesAway(AWAY)

    patch.setattr(files, "check", check)
    files.problem = AWAY


async def test_a_request_from_its_picture_to_its_end_leaves_the_video(
    client: httpx.AsyncClient,
) -> None:
    files, services = files_of(client), app_of(client).state.services
    jobs = [await submit(client) for _ in range(2)]
    results = [await result_of(client, job) for job in jobs]
    assert [each.status_code for each in results] == [200, 200]
    kinds = sorted(each.partition("-")[0] for each in files.ids() if "-" in each)
    assert kinds == ["image"] * 2 + ["pixels"] * 2, "nothing is shared"
    for _ in range(2):
        services.images.sweep()
        services.images._now = lambda: services.store.now() + 3600.0
    assert [each for each in files.ids() if "-" in each] == []
    assert not list((services.settings.data).glob("files/*"))


async def test_an_upload_in_parts_becomes_one_object(client: httpx.AsyncClient) -> None:
    files = files_of(client)
    before = set(files.ids())
    data = [b"a" * 6_000_000, b"b"]
    upload_url, file_url = await initiate(client, INITIATE_MULTIPART)
    sent = [await put(client, f"{upload_url}/{at}", piece) for at, piece in enumerate(data, 1)]
    parts = [each.json() for each in sent]
    for _ in range(2):
        assert (await complete(client, upload_url, parts)).status_code == 200
    assert (await client.get(file_url)).content == b"".join(data)
    assert [each.split("-")[0] for each in set(files.ids()) - before] == [file_url.split("/")[-2]]


async def test_an_upload_that_breaks_off_leaves_nothing(client: httpx.AsyncClient) -> None:
    before = set(files_of(client).ids())

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 6_000_000
        raise ConnectionError

    assert (await client.post(UPLOAD, content=body())).status_code == 500
    assert set(files_of(client).ids()) == before


async def test_an_object_that_is_gone_is_not_found(client: httpx.AsyncClient) -> None:
    url = await upload(client, picture())
    files_of(client).remove(url.split("/")[-2])
    assert (await client.get(url)).status_code == 404


async def test_while_the_bucket_is_away_jobs_wait_and_nothing_is_taken_in(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(client)
    url = await upload(client, picture())
    await client.post("/admin/queue/pause")
    prepared, fetched = await submit(client), await submit(client, image_url=url)
    await until_prepared(client, prepared, fetched)
    await client.post("/admin/queue/resume")
    with monkeypatch.context() as away:
        take_away(files, away)
        text = "fal-ai/cosmos-predict-2.5/text-to-video"
        accepted = await client.post(
            f"/queue/{text}", json={"prompt": "a", "num_inference_steps": 2}
        )
        refused = [
            await client.post(RUN, json=request_of()),
            await client.post(UPLOAD, content=b"x"),
            await client.get(url),
        ]
        ready = await client.get("/health/ready")
        while "store of files is away" not in (await status_of(client, prepared, logs="1")).text:
            await asyncio.sleep(0.02)
        assert [job.json()["status"] for job in [await status_of(client, prepared)]] == ["IN_QUEUE"]

    assert accepted.status_code == 200
    assert [(each.status_code, each.headers["retry-after"]) for each in refused] == [
        (503, "10")
    ] * 3
    assert [each.headers["x-fal-retryable"] for each in refused] == ["true"] * 3
    assert ready.status_code == 503
    failed = [each for each in ready.json()["checks"] if not each["passed"]]
    assert [(each["name"], each["problem"]) for each in failed] == [("files", AWAY)]
    for job in (prepared, fetched, accepted.json()["request_id"]):
        assert (await result_of(client, job)).status_code == 200
    assert (await client.get(url)).content == picture()


@pytest.mark.parametrize("times", [1, 3])
async def test_a_video_that_was_made_is_kept_in_hand_for_a_while(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr("server.dispatch.run.KEEP_AGAIN_S", 0.01)
    monkeypatch.setattr("server.dispatch.run.KEEP_S", 60.0)
    files, calls = files_of(client), []
    put_object = files.put

    def fail_first(artifact_id: str, *arguments: Any, **named: Any) -> None:
        if "-" not in artifact_id:
            calls.append(artifact_id)
            if len(calls) <= times:
                raise FilesAway(AWAY)
        put_object(artifact_id, *arguments, **named)

    monkeypatch.setattr(files, "put", fail_first)
    job = await submit(client)
    assert (await result_of(client, job)).status_code == 200
    assert len(calls) > times
    assert "try 2" not in (await status_of(client, job, logs="1")).text


async def test_a_video_that_cannot_be_kept_is_made_again(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.dispatch.run.RUN_AGAIN_S", 0.01)
    files, calls = files_of(client), []
    put_object = files.put

    def fail_once(artifact_id: str, data: Any, *arguments: Any, **named: Any) -> None:
        if not isinstance(data, bytes):
            calls.append(artifact_id)
            if len(calls) == 1:
                raise FilesAway(AWAY)
        put_object(artifact_id, data, *arguments, **named)

    monkeypatch.setattr(files, "put", fail_once)
    before = set(files.ids())
    job = await submit(client, "bytes 6000000")
    assert (await result_of(client, job)).status_code == 200
    log = (await status_of(client, job, logs="1")).text
    assert f"{AWAY} Try again later. The video is made again." in log
    assert len([each for each in set(files.ids()) - before if "-" not in each]) == 2


# Files that the bucket answers itself.


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redirecting(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that redirects."""
    folder = tmp_path_factory.mktemp("server")
    async with serving_objects(folder, files="s3://videos", files_serving="redirect") as client:
        files = files_of(client)
        with patch.object(
            files, "signed_url", lambda id_, seconds: f"https://bucket/{id_}?{seconds}"
        ):
            yield client


async def test_a_video_is_read_from_the_bucket_for_an_hour(redirecting: httpx.AsyncClient) -> None:
    answer = await redirecting.post(RUN, json=request_of("bytes 6000000"))
    url = answer.json()["video"]["url"]
    file_id = url.split("/")[-2]

    whole = await redirecting.get(url)
    assert (whole.status_code, whole.headers["location"]) == (307, f"https://bucket/{file_id}?3600")
    assert whole.headers["cache-control"] == "private, no-store"
    head = await redirecting.head(url)
    assert (head.status_code, head.headers["content-length"]) == (200, "6000000")
    own_page = await redirecting.get(url, headers={"sec-fetch-site": "same-origin"})
    assert (own_page.status_code, len(own_page.content)) == (200, 6_000_000)
    kind = files_of(redirecting)._store.get(file_id).attributes["Content-Type"]
    assert kind == "video/mp4"


async def test_a_redirect_ends_with_its_file(redirecting: httpx.AsyncClient) -> None:
    lifetime = {"x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 60}'}
    url = await upload(redirecting, picture(), **lifetime)
    seconds = int((await redirecting.get(url)).headers["location"].partition("?")[2])
    assert 50 <= seconds <= 60


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "application/pdf"])
async def test_what_has_to_be_an_attachment_is_not_redirected(
    redirecting: httpx.AsyncClient, content_type: str
) -> None:
    answer = await redirecting.get(await upload(redirecting, b"<script>", content_type))
    assert (answer.status_code, answer.content) == (200, b"<script>")
    assert answer.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (FilesAway(AWAY), f"of the file {{}} no more could be read. {AWAY}"),
        (FileNotFoundError(), "the file {} was removed meanwhile"),
    ],
)
async def test_a_file_that_cannot_be_read_to_its_end_is_cut_off(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    files = files_of(client)
    url = httpx.URL(await upload(client, os.urandom(3 * MIB)))
    read_range = files.read_range

    async def read_the_first(artifact_id: str, start: int, end: int) -> bytes:
        if start >= MIB:
            raise error
        return await read_range(artifact_id, start, end)

    monkeypatch.setattr(files, "read_range", read_the_first)
    with capture_logs() as logs:
        async with Connection(client, url.path, method="GET") as connection:
            await connection.returned()

    assert [line["why"] for line in logs] == [why.format(url.path.split("/")[2])]
    assert sum(len(message.get("body", b"")) for message in connection.sent) == MIB
    assert connection.sent[-1]["more_body"]
