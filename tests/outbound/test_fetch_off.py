"""COSMOS_FETCH=off: a server that asks nobody anything."""

from collections.abc import AsyncIterator, Sequence

import httpx
import pytest
import pytest_asyncio
from http_sites import NO_ROOTS, fetch
from queue_calls import RUN, SUBMIT
from servers import picture, request_of, serving, settings_in
from upload_calls import upload

from server.outbound.errors import FetchRefused
from server.outbound.fetch import Fetcher

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def quiet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings_in(tmp_path_factory.mktemp("quiet"), fetch="off")) as client:
        yield client


async def test_pictures_that_are_sent_are_used(quiet: httpx.AsyncClient) -> None:
    uploaded = await upload(quiet, picture())

    for body in (request_of(), request_of(image_url=uploaded)):
        assert (await quiet.post(RUN, json=body)).status_code == 200


async def test_pictures_elsewhere_are_refused_with_what_to_do(quiet: httpx.AsyncClient) -> None:
    answer = await quiet.post(RUN, json=request_of(image_url="https://example.com/car.png"))

    assert answer.status_code == 422
    [item] = answer.json()["detail"]
    assert (item["loc"], item["type"]) == (["body", "image_url"], "file_download_error")
    assert "COSMOS_FETCH=off" in item["msg"] and "data URI or an upload" in item["msg"]


async def test_webhooks_are_refused_when_they_are_given(quiet: httpx.AsyncClient) -> None:
    url = "https://hooks.example.com/"
    answer = await quiet.post(SUBMIT, json=request_of(), params={"fal_webhook": url})

    assert answer.status_code == 422
    [item] = answer.json()["detail"]
    assert item["loc"] == ["query", "fal_webhook"]
    assert "COSMOS_FETCH=off" in item["msg"] and "status" in item["msg"]


async def test_no_name_is_looked_up() -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        raise AssertionError("looked up")

    off = Fetcher(enabled=False, resolve=resolve, ssl_context=NO_ROOTS)
    for asked in (
        fetch(off, "https://example.com/", max_bytes=100),
        off.post("https://example.com/", b"", {}, deadline_s=30),
    ):
        with pytest.raises(FetchRefused):
            await asked
    with pytest.raises(FetchRefused):
        off.check("https://example.com/")
