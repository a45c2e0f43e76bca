"""All endpoints of fal over HTTP, and those whose weights are not here."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from asgi_calls import app_of
from clips import clip
from queue_calls import result_of, status_of, until
from servers import (
    APP,
    BASE_URL,
    HEIGHT,
    WIDTH,
    data_uri,
    picture,
    request_for_each,
    serving,
    settings_in,
    two_checkpoints,
)

from server.fal.endpoints import ENDPOINTS

DISTILLED = f"{APP}/distilled/text-to-video"
REQUESTS = request_for_each()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def all_four(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    folder = tmp_path_factory.mktemp("server")
    async with serving(settings_in(folder, weights=two_checkpoints(folder))) as client:
        yield client


async def submitted(client: httpx.AsyncClient, endpoint: str, **fields: Any) -> str:
    body = REQUESTS[endpoint] | fields
    answer = await client.post(f"/queue/{endpoint}", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_every_endpoint_makes_a_video_under_both_forms_of_its_urls(
    all_four: httpx.AsyncClient, endpoint: str
) -> None:
    job = await submitted(all_four, endpoint)
    urls = (await status_of(all_four, job)).json()
    result = await result_of(all_four, job)
    request = f"{BASE_URL}/queue/{endpoint}/requests/{job}"
    whole = [(await all_four.get(f"{request}{end}")).json() for end in ("/status", "")]

    # What fal's queue hands out has the first two segments alone.
    assert urls["response_url"] == f"{BASE_URL}/queue/{APP}/requests/{job}"
    assert result.status_code == 200
    assert (whole[0]["status"], whole[1]) == ("COMPLETED", result.json())
    assert result.json()["video"]["width"] == WIDTH
    other = next(each for each in ENDPOINTS if each != endpoint)
    assert (await all_four.get(f"/queue/{other}/requests/{job}")).status_code == 404


@pytest.mark.asyncio(loop_scope="module")
async def test_all_that_are_served_are_listed(all_four: httpx.AsyncClient) -> None:
    paths = (await all_four.get("/openapi.json")).json()["paths"]
    texts = (await all_four.get("/llms.txt")).text
    for endpoint in ENDPOINTS:
        assert f"/run/{endpoint}" in paths
        assert f"- **Model ID**: `{endpoint}`\n" in texts
        assert (await all_four.get(f"/models/{endpoint}/llms.txt")).status_code == 200
        query = {"endpoint_id": endpoint}
        document = await all_four.get("/api/openapi/queue/openapi.json", params=query)
        assert f"/{endpoint}" in document.json()["paths"]


async def test_an_endpoint_without_its_weights_is_not_there(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        for answer in [
            await client.post(f"/queue/{DISTILLED}", json=REQUESTS[DISTILLED]),
            await client.post(f"/run/{DISTILLED}", json=REQUESTS[DISTILLED]),
            await client.get(f"/models/{DISTILLED}/llms.txt"),
        ]:
            assert answer.status_code == 404
            assert answer.json() == {"detail": f"Path /{DISTILLED} not found"}
        document = (await client.get("/openapi.json")).json()
        unknown = await client.get(f"/api/openapi/queue/openapi.json?endpoint_id={DISTILLED}")
        assert f"/run/{APP}/text-to-video" in document["paths"]
        assert "distilled" not in str(document).lower()
        assert unknown.status_code == 400
        assert "distilled" not in (await client.get("/llms.txt")).text.lower()


async def test_jobs_whose_weights_went_away_wait_and_let_others_pass(tmp_path: Path) -> None:
    both = two_checkpoints(tmp_path)
    async with serving(settings_in(tmp_path, weights=both, worker="workers:LoadFails")) as client:
        waits = await submitted(client, DISTILLED)

    async with serving(settings_in(tmp_path, weights=tmp_path / "base")) as client:
        passes = await submitted(client, f"{APP}/text-to-video")
        assert (await result_of(client, passes)).status_code == 200
        ready = (await client.get("/health/ready")).json()
        status = (await status_of(client, waits, logs="1")).json()
    assert ready["waiting_for_weights"] == [{"endpoint": DISTILLED, "requests": 1}]
    assert ready["status"] == "ready"
    assert (status["status"], status["queue_position"]) == ("IN_QUEUE", 0)
    assert "weights of this endpoint are not on this server" in status["logs"][-1]["message"]

    async with serving(settings_in(tmp_path, weights=both)) as client:
        await until(client, waits, "COMPLETED")
        assert (await client.get("/health/ready")).json()["waiting_for_weights"] == []


# A clip.


@pytest.mark.asyncio(loop_scope="module")
async def test_of_a_clip_five_frames_are_kept(all_four: httpx.AsyncClient) -> None:
    job = await submitted(all_four, f"{APP}/video-to-video")
    assert (await result_of(all_four, job)).status_code == 200
    store = app_of(all_four).state.services.store
    kept = store.artifact(store.job(job).input_refs["video"])

    assert (kept.frames, kept.size) == (5, 5 * HEIGHT * WIDTH * 3)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("video", "kind", "message"),
    [
        (lambda: clip(source="testsrc2=s=96x64:r=16:d=0.2"), "video_duration_too_short", "4 of"),
        (picture, "unsupported_video_format", "a PNG file"),
        (lambda: clip()[:4000], "unsupported_video_format", "cut short"),
    ],
)
async def test_a_clip_that_cannot_be_used_is_the_callers_error(
    all_four: httpx.AsyncClient, video: Any, kind: str, message: str
) -> None:
    job = await submitted(all_four, f"{APP}/video-to-video", video_url=data_uri(video()))
    answer = await result_of(all_four, job)
    (item,) = answer.json()["detail"]

    assert (answer.status_code, item["type"]) == (422, kind)
    assert item["loc"] == ["body", "video_url"]
    assert item["input"] == "data:…"
    assert message in item["msg"]
