"""Who may do what with OpenAI's videos API, what is refused, and what is kept of a video."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from api_keys import add_key, by_key
from job_fixtures import sql
from moderation_site import Part, flagged, is_frame, moderations
from queue_calls import RUN, SUBMIT, result_of
from servers import APP, picture, request_of, serving, settings_in
from upload_calls import upload
from video_calls import NOBODY, VIDEOS, content, create, problem, until_it_is

from server.keys import Scope

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = {"prompt": "a red car"}


@dataclass(frozen=True, slots=True)
class Keyed:
    """A server that asks for keys, and some of them, as OpenAI's clients send them."""

    client: httpx.AsyncClient
    mine: dict[str, str]
    yours: dict[str, str]
    files: dict[str, str]
    """Of a key that may upload, and no more."""


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Keyed]:
    folder = tmp_path_factory.mktemp("keyed")
    settings = settings_in(folder, auth="on", files_auth="key", queue_limit=2)
    mine, yours = (bearer(add_key(settings)) for _ in range(2))
    files = bearer(add_key(settings, scopes=frozenset({Scope.FILES})))
    async with serving(settings) as client:
        yield Keyed(client, mine, yours, files)


async def test_a_video_is_for_its_own_key_alone(keyed: Keyed) -> None:
    client = keyed.client
    made = await create(client, headers=keyed.mine)
    await until_it_is(client, made, "completed", headers=keyed.mine)

    path = f"{VIDEOS}/{made['id']}"
    for method, each in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
        assert problem(await client.request(method, each, headers=keyed.yours), 404)
    assert (await client.get(VIDEOS, headers=keyed.yours)).json()["data"] == []
    file = await content(client, made, **keyed.mine)
    assert (file.status_code, file.headers["cache-control"]) == (200, "private, no-cache")
    # fal's word is as good as OpenAI's.
    key = keyed.mine["authorization"].partition(" ")[2]
    listed = (await client.get(VIDEOS, headers=by_key(key))).json()["data"]
    assert [video["id"] for video in listed] == [made["id"]]


async def test_a_file_is_used_by_its_id_if_it_is_the_keys_own(keyed: Keyed) -> None:
    client = keyed.client
    url = await upload(client, picture(), **keyed.mine)
    file: dict[str, Any] = {"input_reference": {"file_id": url.split("/")[-2]}}

    made = await create(client, headers=keyed.mine, **file)
    assert made["model"] == f"{APP}/image-to-video"
    await until_it_is(client, made, "completed", headers=keyed.mine)
    error = problem(await client.post(VIDEOS, json=PROMPT | file, headers=keyed.yours), 400)
    assert error["message"] == "This server has no such file."


async def test_who_may_not_come_in_is_told_in_openais_shape(keyed: Keyed) -> None:
    client = keyed.client
    for path in (VIDEOS, f"{VIDEOS}/{NOBODY}", f"{VIDEOS}/{NOBODY}/content"):
        nobody = problem(await client.get(path), 401)
        assert nobody["type"] == "authentication_error"
        wrong = problem(await client.get(path, headers=bearer("me:wrong")), 401)
        assert wrong["message"] == "The key is not one of this server's."
        refused = problem(await client.get(path, headers=keyed.files), 403)
        assert refused["type"] == "permission_error"


async def test_what_there_is_not_is_told_in_openais_shape(keyed: Keyed) -> None:
    client, headers = keyed.client, keyed.mine
    missing = f"{VIDEOS}/{NOBODY}"
    assert problem(await client.get(missing, headers=headers), 404)["message"] == "Video not found"
    remix = problem(await client.post(f"{missing}/remix", json=PROMPT, headers=headers), 404)
    assert remix["message"] == f"Path {missing}/remix not found"
    assert problem(await client.put(missing, headers=headers), 405)
    assert problem(await client.get(f"{VIDEOS}//", headers=headers), 404)
    strange = await client.get(VIDEOS, headers=headers | {"host": "not a host"})
    assert problem(strange, 400)["code"] == "bad_request"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "words"),
    [
        (b"{", "application/json", 400, "JSON decode error"),
        (b"[]", "application/json", 400, "valid dictionary"),
        (b'"' + b"x" * 1024 * 1024 + b'"', "application/json", 413, "without its file"),
        (b"x" * (24 * 1024 * 1024 + 1), "multipart/form-data; boundary=x", 413, "25,165,824"),
        (b"x", "multipart/form-data; boundary=x", 400, "The form cannot be read."),
        (b"x", "multipart/form-data", 400, "Missing boundary"),
    ],
)
async def test_a_body_that_is_no_request_is_refused(
    keyed: Keyed, body: bytes, content_type: str, status: int, words: str
) -> None:
    headers = keyed.mine | {"content-type": content_type}
    answer = await keyed.client.post(VIDEOS, content=body, headers=headers)
    assert words in problem(answer, status)["message"]


async def test_a_full_queue_and_another_body_are_told_in_openais_shape(keyed: Keyed) -> None:
    client, headers = keyed.client, keyed.mine
    videos = [await create(client, "wait", headers=headers)]
    await until_it_is(client, videos[0], "in_progress", headers=headers)
    once = headers | {"idempotency-key": "once"}
    videos += [await create(client, headers=each) for each in (once, headers)]

    full = await client.post(VIDEOS, json=PROMPT, headers=headers)
    assert problem(full, 429)["type"] == "rate_limit_error"
    assert full.headers["retry-after"] == "10"
    other = await client.post(VIDEOS, json=PROMPT, headers=once)
    assert "another body" in problem(other, 422)["message"]
    for video in videos:
        await client.delete(f"{VIDEOS}/{video['id']}", headers=headers)


async def test_a_full_disk_is_told_in_openais_shape(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, min_free_disk_mib=2**40)) as client:
        error = problem(await client.post(VIDEOS, json=PROMPT), 507)
    assert error["type"] == "server_error"


# What is kept.


def thumbnails(folder: Path) -> int:
    (row,) = sql(
        folder / "data" / "jobs.sqlite3", "SELECT count(*) FROM artifacts WHERE kind = 'thumbnail'"
    )
    return int(row[0])


async def test_a_thumbnail_goes_with_its_video(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        lifecycle = {"x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 3600}'}
        made = await create(client, headers=lifecycle)
        done = await until_it_is(client, made, "completed")
        assert done["expires_at"] - done["completed_at"] == 3600
        assert thumbnails(tmp_path) == 1
        sql(tmp_path / "data" / "jobs.sqlite3", "UPDATE artifacts SET expires_at = 1.0")
        for variant in ("video", "thumbnail"):
            problem(await content(client, made, variant), 404)


async def test_a_request_that_keeps_no_output_keeps_no_thumbnail(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        made = await client.post(RUN, json=request_of(sync_mode=True))
        assert made.status_code == 200
        headers = {"x-fal-store-io": "0"}
        hidden = (await client.post(SUBMIT, json=request_of(), headers=headers)).json()
        assert (await result_of(client, hidden["request_id"])).status_code == 200
        assert thumbnails(tmp_path) == 0
        await client.post(RUN, json=request_of())
        assert thumbnails(tmp_path) == 1


async def test_a_request_that_a_guardrail_blocked_keeps_no_thumbnail(tmp_path: Path) -> None:
    async with moderations() as endpoint:

        def judge(part: Part) -> bytes:
            return flagged(is_frame(part, 8))

        endpoint.judge = judge
        async with serving(settings_in(tmp_path, guardrail=endpoint.url)) as client:
            made = await create(client)
            view = await until_it_is(client, made, "failed")
            problem(await content(client, made, "thumbnail"), 404)
    assert view["error"]["code"] == "content_policy_violation"
    assert thumbnails(tmp_path) == 0


async def test_a_job_that_is_not_kept_is_deleted_while_it_runs(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        hidden = {"x-fal-store-io": "0"}
        made = await create(client, "wait", headers=hidden)
        await until_it_is(client, made, "in_progress")
        await client.delete(f"{VIDEOS}/{made['id']}")
        after: Any = await create(client)
        await until_it_is(client, after, "completed")
        problem(await client.get(f"{VIDEOS}/{made['id']}"), 404)
