"""Files over HTTP where not everybody who has a URL may read it: COSMOS_FILES_AUTH."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from api_keys import add_key, by_key, keys_of
from http_sites import Site, answer, running
from queue_calls import RUN, SUBMIT
from receivers import until_hooked
from servers import APP, picture, request_of, serving, settings_in
from upload_calls import INITIATE_MULTIPART, MULTIPART, initiate, put, upload

from server.config.settings import Settings
from server.files.links import LinkSigner
from server.keys import Scope

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIGNED = re.compile(r".+/files/[0-9a-f]{32}/[^?]+\?expires=[0-9]{10}&signature=[0-9a-f]{64}")
HOUR_S = 3600
NOWHERE = f"/files/{'0' * 32}/video.mp4"


@dataclass(frozen=True, slots=True)
class Guarded:
    """A server that asks for keys, and two of them."""

    client: httpx.AsyncClient
    settings: Settings
    mine: dict[str, str]
    yours: dict[str, str]

    async def video(self, **fields: Any) -> str:
        """The URL of a video of mine."""
        made = await self.client.post(RUN, json=request_of(**fields), headers=self.mine)
        assert made.status_code == 200, made.text
        return str(made.json()["video"]["url"])

    async def uses(self, url: str, key: dict[str, str]) -> tuple[int, str]:
        """What becomes of a request with this picture; what it says of that."""
        made = await self.client.post(RUN, json=request_of(image_url=url), headers=key)
        return made.status_code, "" if made.is_success else made.json()["detail"][0]["msg"]


def guarded(folder: Path, **changes: Any) -> tuple[Settings, dict[str, str], dict[str, str]]:
    settings = settings_in(folder, auth="on", **changes)
    return settings, by_key(add_key(settings)), by_key(add_key(settings))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def signed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    settings, mine, yours = guarded(
        tmp_path_factory.mktemp("signed"),
        files_auth="signed",
        files_url_seconds=HOUR_S,
        fetch_allow_nets="127.0.0.0/8",
    )
    async with serving(settings) as client:
        yield Guarded(client, settings, mine, yours)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    settings, mine, yours = guarded(tmp_path_factory.mktemp("key"), files_auth="key")
    async with serving(settings) as client:
        yield Guarded(client, settings, mine, yours)


def bare(url: str) -> str:
    return url.partition("?")[0]


def expired(url: str, settings: Settings) -> str:
    """The URL as this server signed it more than an hour ago."""
    secret = (settings.data / "token.secret").read_bytes()
    signer = LinkSigner(secret, seconds=HOUR_S, now=lambda: time.time() - HOUR_S - 1)
    return f"{bare(url)}?{signer.query(bare(url).split('/')[-2])}"


# Signed URLs.


async def test_every_url_that_is_handed_out_is_signed_and_opens_its_file(signed: Guarded) -> None:
    client, mine = signed.client, signed.mine
    run = await signed.video()
    sent = await upload(client, picture(), name="a car.png", **mine)
    to, put_file = await initiate(client, headers=mine)
    assert (await put(client, to, picture())).status_code == 200

    for url in (run, sent, put_file):
        assert SIGNED.fullmatch(url), url
        assert (await client.get(url)).status_code == 200
    for path, name in ((MULTIPART, "access_url"), (INITIATE_MULTIPART, "file_url")):
        begun = await client.post(path, json={"file_name": "a.txt"}, headers=mine)
        assert SIGNED.fullmatch(begun.json()[name])


async def test_a_result_asked_for_twice_is_the_same_and_its_webhook_has_it(
    signed: Guarded,
) -> None:
    client, mine = signed.client, signed.mine
    async for receiver in running(Site(answers={"/hook": answer()}), None):
        hook = {"fal_webhook": receiver.url("/hook")}
        job = await client.post(SUBMIT, params=hook, json=request_of(), headers=mine)
        (told,) = await until_hooked(receiver)
        request = f"/queue/{APP}/requests/{job.json()['request_id']}"
        first, again = [await client.get(request, headers=mine) for _ in range(2)]

        assert first.content == again.content
        assert told.json()["payload"] == first.json()
        assert (await client.get(first.json()["video"]["url"])).status_code == 200


async def test_without_its_signature_a_url_opens_nothing_and_does_not_tell(
    signed: Guarded,
) -> None:
    url, other = await signed.video(), await signed.video()
    path, query = bare(url), url.partition("?")[2]
    wrong = [path, f"{path}?expires=9999999999", f"{path}?{other.partition('?')[2]}"]
    wrong += [url[:-1], url.replace("expires=", "expires=1"), f"{bare(other)}?{query}", NOWHERE]

    for each in wrong:
        for headers in ({}, signed.mine):
            refused = await signed.client.get(each, headers=headers)
            assert refused.status_code == 403, each
            assert "needs the signature that the server gave with it" in refused.json()["detail"]
    assert (await signed.client.get(f"{NOWHERE}?{query}")).status_code == 403
    assert (await signed.client.get(url.replace("video.mp4", "x.mp4"))).status_code == 404


async def test_after_its_time_a_url_opens_nothing_and_says_why(signed: Guarded) -> None:
    url = expired(await signed.video(), signed.settings)

    refused = await signed.client.get(url)

    assert (refused.status_code, (await signed.client.head(url)).status_code) == (403, 403)
    assert refused.json()["detail"].startswith("The time of this URL is over.")


async def test_a_signed_video_has_ranges_and_is_cached_as_long_as_its_url(
    signed: Guarded,
) -> None:
    url = await signed.video(prompt="bytes 300000")
    part = await signed.client.get(url, headers={"range": "bytes=100000-100009"})
    head = await signed.client.head(url)
    left = int(httpx.URL(url).params["expires"]) - time.time()
    (cached,) = re.findall(r"private, max-age=(\d+), immutable", head.headers["cache-control"])

    assert (part.status_code, len(part.content)) == (206, 10)
    assert (head.status_code, head.headers["content-length"]) == (200, "300000")
    assert left - 10 < int(cached) <= left + 10 <= HOUR_S + 20


async def test_a_file_that_goes_before_its_url_is_kept_no_longer_than_the_file(
    signed: Guarded,
) -> None:
    lifetime = {"x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 60}'}
    url = await upload(signed.client, picture(), **signed.mine, **lifetime)
    caching = (await signed.client.get(url)).headers["cache-control"]

    assert int(caching.partition("max-age=")[2].partition(",")[0]) <= 60


async def test_a_signed_image_url_works_for_all_and_a_bare_one_for_its_owner(
    signed: Guarded,
) -> None:
    url = await upload(signed.client, picture(), **signed.mine)
    over = expired(url, signed.settings)

    assert await signed.uses(url, signed.yours) == (200, "")
    assert await signed.uses(bare(url), signed.mine) == (200, "")
    assert await signed.uses(over, signed.mine) == (200, "")
    for wrong, reason in ((bare(url), "needs the signature"), (over, "time of this URL is over")):
        code, message = await signed.uses(wrong, signed.yours)
        assert (code, reason in message) == (422, True)


async def test_fals_python_client_appends_its_parts_to_a_signed_url(signed: Guarded) -> None:
    client, mine = signed.client, signed.mine
    named = {"x-fal-file-name": "notes.txt", "content-type": "text/plain"}
    begun = (await client.post(MULTIPART, headers={**mine, **named})).json()
    parts = f"{begun['access_url']}/multipart/{begun['uploadId']}"
    tag = (await client.put(f"{parts}/1", content=b"all of it", headers=mine)).json()
    done = await client.post(f"{parts}/complete", json={"parts": [tag]}, headers=mine)

    assert (done.status_code, tag["partNumber"]) == (200, 1)
    assert (await client.get(begun["access_url"])).content == b"all of it"
    assert (await client.put(f"{parts}/1", content=b"x", headers=signed.yours)).status_code == 404


async def test_signatures_survive_a_restart_and_public_files_ignore_them(
    tmp_path: Path,
) -> None:
    settings, mine, _ = guarded(tmp_path, files_auth="signed")
    async with serving(settings) as client:
        url = await upload(client, picture(), **mine)
    async with serving(settings) as client:
        assert (await client.get(url)).status_code == 200
    async with serving(settings_in(tmp_path, auth="on")) as client:
        assert (await client.get(url)).status_code == 200
        assert (await client.get(bare(url))).status_code == 200
    (settings.data / "token.secret").unlink()
    async with serving(settings) as client:
        assert (await client.get(url)).status_code == 403


async def test_urls_are_signed_where_nobody_needs_a_key_too(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, files_auth="signed")) as client:
        url = await upload(client, picture())
        assert (await client.get(url)).status_code == 200
        assert (await client.get(bare(url))).status_code == 403


# Files by key.


async def test_a_file_is_read_with_the_key_that_it_belongs_to_alone(keyed: Guarded) -> None:
    sent = await upload(keyed.client, picture(), **keyed.mine)
    for url in (await keyed.video(), sent):
        for method in ("GET", "HEAD"):
            codes = [
                (await keyed.client.request(method, url, headers=headers)).status_code
                for headers in (keyed.mine, keyed.yours, {}, by_key("some:thing"))
            ]
            assert codes == [200, 404, 401, 401]
        unknown = await keyed.client.get(NOWHERE, headers=keyed.yours)
        assert (await keyed.client.get(url, headers=keyed.yours)).json() == unknown.json()
        nobody = await keyed.client.get(NOWHERE)
        assert (await keyed.client.get(url)).json() == nobody.json()


async def test_what_a_key_may_read_is_asked_again_each_time(keyed: Guarded) -> None:
    url = await keyed.video()

    cached = (await keyed.client.get(url, headers=keyed.mine)).headers["cache-control"]

    assert cached == "private, no-cache"


async def test_a_revoked_key_reads_nothing(tmp_path: Path) -> None:
    settings, mine, _ = guarded(tmp_path, files_auth="key")
    async with serving(settings) as client:
        url = await upload(client, picture(), **mine)
        with keys_of(settings) as store:
            store.revoke(mine["authorization"].removeprefix("Key ").partition(":")[0])
        while (read := await client.get(url, headers=mine)).status_code == 200:
            await asyncio.sleep(0.02)
        assert read.status_code == 401


async def test_a_page_shows_a_video_by_a_token_of_its_key(keyed: Guarded) -> None:
    async def token(key: dict[str, str]) -> dict[str, str]:
        wanted = {"allowed_apps": ["cosmos-predict-2.5"], "token_expiration": 120}
        lent = await keyed.client.post("/rest/tokens/", json=wanted, headers=key)
        return {"fal_jwt_token": lent.json()}

    url = await keyed.video()
    mine, yours = await token(keyed.mine), await token(keyed.yours)
    part = await keyed.client.get(url, params=mine, headers={"range": "bytes=0-3"})

    assert (part.status_code, len(part.content)) == (206, 4)
    assert (await keyed.client.get(url, params=yours)).status_code == 404
    assert (await keyed.client.get(url, params={"fal_jwt_token": "x"})).status_code == 401


async def test_a_picture_is_used_by_the_key_that_it_belongs_to_alone(keyed: Guarded) -> None:
    url = await upload(keyed.client, picture(), **keyed.mine)

    assert await keyed.uses(url, keyed.mine) == (200, "")
    assert await keyed.uses(url, keyed.yours) == (422, "This server has no such file.")


async def test_an_operator_reads_no_file_of_a_key(keyed: Guarded) -> None:
    operator = by_key(add_key(keyed.settings, scopes=[Scope.ADMIN]))
    url = await keyed.video()
    while (read := await keyed.client.get(url, headers=operator)).status_code == 401:
        await asyncio.sleep(0.02)

    assert read.status_code == 404


async def test_the_document_says_how_files_are_read(signed: Guarded, keyed: Guarded) -> None:
    documents = [await each.client.get("/openapi.json") for each in (signed, keyed)]
    by_url, by_key = (each.json()["paths"]["/files/{file_id}/{name}"]["get"] for each in documents)

    names = [each["name"] for each in by_url["parameters"] if each["in"] == "query"]
    assert names == ["expires", "signature"]
    assert ("403" in by_url["responses"], by_url["security"]) == (True, [])
    assert ("403" in by_key["responses"], by_key["security"]) == (False, [{"key": []}])
