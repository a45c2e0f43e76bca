"""Files that come whole: by fal's Python client with a token, by others with a URL to put to."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from api_keys import add_key, by_key, keys_of
from asgi_calls import app_of, call, scope_of
from queue_calls import RUN
from servers import BASE_URL, picture, request_of, serving, settings_in
from upload_calls import INITIATE, INITIATE_MULTIPART, TOKEN, UPLOAD, initiate, kept, put, upload

from server.keys import Scope

pytestmark = pytest.mark.asyncio(loop_scope="module")

LARGE = os.urandom(3_000_000)


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


# The token and the file, as fal's Python client sends them.


async def test_a_token_says_where_files_go_and_until_when_it_is_good(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post(TOKEN, json={})
    body = answer.json()
    expires_at = datetime.fromisoformat(body["expires_at"])

    assert answer.headers["cache-control"] == "no-store"
    assert body["token_type"] == "Bearer"
    assert body["base_url"] == BASE_URL
    assert body["expires_at"].endswith("+00:00")
    assert timedelta(minutes=50) < expires_at - datetime.now(UTC) < timedelta(minutes=60)


async def test_a_caller_who_knows_us_by_fals_names_is_sent_to_fals_file_host(
    client: httpx.AsyncClient,
) -> None:
    at_fal = {"host": "rest.fal.ai"}
    token = await client.post(TOKEN.removeprefix("/rest"), headers=at_fal)
    older = await client.post(TOKEN.removeprefix("/rest"), headers={"host": "rest.alpha.fal.ai"})
    sent = await client.post(UPLOAD, content=b"x", headers={"host": "v3.fal.media"})
    url = httpx.URL(sent.json()["access_url"])
    read = await client.get(url.path, headers={"host": "v3.fal.media"})

    assert token.json()["base_url"] == older.json()["base_url"] == "http://v3.fal.media"
    assert (url.host, url.path.split("/")[1]) == ("v3.fal.media", "files")
    assert read.content == b"x"


@pytest.mark.parametrize("content", [b"", b"x", LARGE], ids=len)
async def test_a_file_comes_back_as_it_was_sent(client: httpx.AsyncClient, content: bytes) -> None:
    url = await upload(client, content, "text/plain", "notes.txt")

    answer = await client.get(url)

    assert answer.content == content
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["content-length"] == str(len(content))


async def test_a_file_need_not_say_its_length_beforehand(client: httpx.AsyncClient) -> None:
    answer = await client.post(UPLOAD, content=chunks(LARGE))

    assert (await client.get(answer.json()["access_url"])).content == LARGE


async def test_the_same_file_twice_is_two_files(client: httpx.AsyncClient) -> None:
    assert await upload(client, b"x") != await upload(client, b"x")


async def test_a_name_goes_into_the_url_and_comes_back_in_a_header(
    client: httpx.AsyncClient,
) -> None:
    url = await upload(client, picture(), "image/png", 'Käse "alt" #1?.png')
    answer = await client.get(url)

    assert url.endswith("/K%C3%A4se%20%22alt%22%20%231%3F.png")
    assert answer.headers["content-disposition"] == (
        "inline; filename*=utf-8''K%C3%A4se%20%22alt%22%20%231%3F.png"
    )


async def test_a_name_in_the_letters_of_a_browser_is_understood(
    client: httpx.AsyncClient,
) -> None:
    headers = [(b"x-fal-file-name", "Käse.png".encode("latin-1"))]
    answer = await client.post(UPLOAD, content=b"x", headers=headers)

    assert answer.json()["access_url"].endswith("/K%C3%A4se.png")


async def test_a_type_that_is_none_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post(UPLOAD, content=b"x", headers={"content-type": "picture"})

    assert answer.status_code == 400
    assert answer.json()["error_type"] == "bad_request"


async def test_a_restriction_of_who_may_read_is_refused_for_it_would_not_hold(
    client: httpx.AsyncClient,
) -> None:
    headers = {"x-fal-object-lifecycle": '{"initial_acl": {"default": "forbid"}}'}

    for path in (UPLOAD, INITIATE, INITIATE_MULTIPART):
        answer = await client.post(path, content=b"{}", headers=headers)
        assert answer.status_code == 400
        assert "initial_acl" in answer.json()["detail"]


# The URL to put to, as fal's JavaScript client uses it.


async def test_a_file_is_put_to_a_given_url_without_a_key(client: httpx.AsyncClient) -> None:
    put_to, url = await initiate(client, name="my car.png")

    assert put_to.startswith(f"{BASE_URL}/files/upload/")
    assert (await client.get(url)).status_code == 404
    answer = await put(client, put_to, picture())
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert url.endswith("/my%20car.png")
    assert (await client.get(url)).content == picture()


async def test_a_url_works_once(client: httpx.AsyncClient) -> None:
    put_to, url = await initiate(client)
    await put(client, put_to, b"first")

    answer = await put(client, put_to, b"second")

    assert answer.status_code == 410
    assert (await client.get(url)).content == b"first"


async def test_of_many_who_put_at_once_one_is_taken(
    client: httpx.AsyncClient,
) -> None:
    put_to, url = await initiate(client)
    contents = [str(number).encode() * 500_000 for number in range(5)]

    answers = await asyncio.gather(*(put(client, put_to, each) for each in contents))

    codes = [answer.status_code for answer in answers]
    assert sorted(codes) == [200, 410, 410, 410, 410]
    assert (await client.get(url)).content == contents[codes.index(200)]


async def test_a_url_is_for_files_of_the_type_that_was_asked_for(
    client: httpx.AsyncClient,
) -> None:
    put_to, url = await initiate(client, content_type="image/png")

    assert (await put(client, put_to, b"<html>", "text/html")).status_code == 400
    assert (await client.get(url)).status_code == 404
    assert (await put(client, put_to, picture(), "IMAGE/PNG; x=y")).status_code == 200
    assert (await client.get(url)).headers["content-type"] == "image/png"


async def test_the_put_need_not_repeat_the_type(client: httpx.AsyncClient) -> None:
    put_to, url = await initiate(client, content_type="image/png")

    assert (await put(client, put_to, picture(), None)).status_code == 200
    assert (await client.get(url)).headers["content-type"] == "image/png"


@pytest.mark.parametrize("body", ["{}", '{"file_name": "", "content_type": null}'])
async def test_neither_name_nor_type_are_needed(client: httpx.AsyncClient, body: str) -> None:
    answer = await client.post(INITIATE, content=body)

    assert answer.json()["file_url"].endswith("/upload.bin")


@pytest.mark.parametrize("body", ["", "{", "[]", '{"file_name": 1}'])
async def test_a_body_that_cannot_be_read_is_reported_in_fals_words(
    client: httpx.AsyncClient, body: str
) -> None:
    answer = await client.post(INITIATE, content=body)

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "body"


async def test_a_url_that_nobody_was_given_takes_nothing(client: httpx.AsyncClient) -> None:
    assert (await put(client, "/files/upload/nonsense", b"x")).status_code == 404


async def test_files_that_came_either_way_are_made_into_videos(client: httpx.AsyncClient) -> None:
    put_to, by_put = await initiate(client)
    await put(client, put_to, picture())
    by_post = await upload(client, picture(), name="a car.png")

    for url in (by_put, by_post):
        answer = await client.post(RUN, json=request_of(image_url=url))
        assert answer.status_code == 200, answer.text


# Limits.


@pytest.fixture
def small(tmp_path: Path) -> Path:
    settings_in(tmp_path)
    return tmp_path


async def test_a_file_larger_than_allowed_is_refused_and_leaves_nothing(small: Path) -> None:
    settings = settings_in(small, upload_limit_mib=1)
    async with serving(settings) as client:
        put_to, url = await initiate(client)
        posted = await client.post(UPLOAD, content=chunks(LARGE))
        at_once = await client.post(UPLOAD, content=LARGE)
        refused = await put(client, put_to, LARGE)

        assert [answer.status_code for answer in (posted, at_once, refused)] == [413] * 3
        assert posted.json()["detail"] == (
            "The file is larger than 1,048,576 bytes, which is the limit for one."
        )
        assert kept(small) == []
        assert (await put(client, put_to, b"x")).status_code == 200
        assert (await client.get(url)).content == b"x"


async def test_all_files_together_have_a_limit(small: Path) -> None:
    settings = settings_in(small, storage_limit_mib=4)
    async with serving(settings) as client:
        await upload(client, LARGE)
        answer = await client.post(UPLOAD, content=LARGE)

        assert answer.status_code == 507
        assert "4,194,304 bytes" in answer.json()["detail"]
        assert len(kept(small)) == 1


async def test_a_file_whose_time_is_over_is_gone(small: Path) -> None:
    settings = settings_in(small)
    async with serving(settings) as client:
        for header in ("x-fal-object-lifecycle", "x-fal-object-lifecycle-preference"):
            headers = {header: '{"expiration_duration_seconds": 60}'}
            url = await upload(client, picture(), **headers)
            answer = await client.get(url)
            seconds = int(answer.headers["cache-control"].split("max-age=")[1].split(",")[0])
            assert 0 < seconds <= 60
            with sqlite3.connect(settings.data / "jobs.sqlite3") as db:
                db.execute("UPDATE artifacts SET expires_at = expires_at - 61")
            db.close()

            assert (await client.get(url)).status_code == 404
            used = await client.post(RUN, json=request_of(image_url=url))
            assert used.json()["detail"][0]["type"] == "file_download_error"


async def test_a_caller_who_leaves_amid_an_upload_leaves_nothing(small: Path) -> None:
    async with serving(settings_in(small)) as client:
        scope = scope_of("POST", UPLOAD.encode(), [(b"host", b"localhost")])
        sent = await call(app_of(client), scope, b"the begin", is_cut=True)

        assert sent[0]["status"] == 499
        assert kept(small) == []


# Keys.


async def test_uploads_need_a_key_or_the_token_that_it_lent(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    key = add_key(settings)
    async with serving(settings) as client:
        for path in (TOKEN, UPLOAD, INITIATE, INITIATE_MULTIPART):
            assert (await client.post(path, content=b"{}")).status_code == 401
        token = (await client.post(TOKEN, headers=by_key(key))).json()["token"]
        bearer = {"authorization": f"Bearer {token}"}
        url = await upload(client, b"x", **bearer)
        assert (await client.get(url)).content == b"x"
        assert await upload(client, b"x", **by_key(key))
        # It is good for uploads, and for nothing else.
        assert (await client.post(RUN, json=request_of(), headers=bearer)).status_code == 403
        assert (await client.post(TOKEN, headers=bearer)).status_code == 403


async def test_a_key_without_the_scope_uploads_nothing(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    key = add_key(settings, scopes=[Scope.RUN])
    async with serving(settings) as client:
        for path in (TOKEN, UPLOAD, INITIATE, INITIATE_MULTIPART):
            answer = await client.post(path, content=b"{}", headers=by_key(key))
            assert answer.status_code == 403


async def test_the_url_of_an_upload_belongs_to_the_key_that_asked_for_it(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    mine, other = add_key(settings), add_key(settings)
    async with serving(settings) as client:
        put_to, url = await initiate(client, headers=by_key(mine))

        assert (await client.put(put_to, headers=by_key(other))).status_code == 404
        assert (await client.put(put_to, headers=by_key("a:b"))).status_code == 401
        assert (await client.put(put_to, content=b"x", headers=by_key(mine))).status_code == 200
        assert (await client.get(url)).content == b"x"


async def test_the_url_of_an_upload_ends_with_its_key(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    key = add_key(settings)
    async with serving(settings) as client:
        put_to, _ = await initiate(client, headers=by_key(key))
    with keys_of(settings) as store:
        store.revoke(key.partition(":")[0])

    async with serving(settings) as client:
        assert (await put(client, put_to, b"x")).status_code == 401
