"""All endpoints over HTTP, and those whose weights are not here."""

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
    MAX_FRAMES,
    WIDTH,
    data_uri,
    picture,
    request_for_each,
    serving,
    settings_in,
    two_checkpoints,
)

from pipeline.spec import Clip, FirstFrame, VideoSpec
from server.dispatch import run
from server.fal.endpoints import ENDPOINTS, EXTEND

DISTILLED = f"{APP}/distilled/text-to-video"
REQUESTS = request_for_each()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def everything(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
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
    everything: httpx.AsyncClient, endpoint: str
) -> None:
    job = await submitted(everything, endpoint)
    app = APP if endpoint.startswith("fal-ai/") else endpoint
    urls = (await status_of(everything, job, app=app)).json()
    result = await result_of(everything, job, app=app)
    request = f"{BASE_URL}/queue/{endpoint}/requests/{job}"
    whole = [(await everything.get(f"{request}{end}")).json() for end in ("/status", "")]

    # What fal's queue hands out has the first two segments alone.
    assert urls["response_url"] == f"{BASE_URL}/queue/{app}/requests/{job}"
    assert result.status_code == 200
    assert (whole[0]["status"], whole[1]) == ("COMPLETED", result.json())
    assert result.json()["video"]["width"] == WIDTH
    other = next(each for each in ENDPOINTS if each != endpoint)
    assert (await everything.get(f"/queue/{other}/requests/{job}")).status_code == 404


@pytest.mark.asyncio(loop_scope="module")
async def test_all_that_are_served_are_listed(everything: httpx.AsyncClient) -> None:
    paths = (await everything.get("/openapi.json")).json()["paths"]
    texts = (await everything.get("/llms.txt")).text
    for endpoint in ENDPOINTS:
        assert f"/run/{endpoint}" in paths
        assert f"- **Model ID**: `{endpoint}`\n" in texts
        assert (await everything.get(f"/models/{endpoint}/llms.txt")).status_code == 200
        query = {"endpoint_id": endpoint}
        document = await everything.get("/api/openapi/queue/openapi.json", params=query)
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


async def test_a_job_whose_checkpoint_a_worker_lacks_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "RUN_AGAIN_S", 0.0)
    settings = settings_in(tmp_path, worker="workers:LacksCheckpointOnce")
    async with serving(settings) as client:
        job = await submitted(client, f"{APP}/text-to-video")
        assert (await result_of(client, job)).status_code == 200
        logs = (await status_of(client, job, logs="1")).json()["logs"]
    assert "No checkpoint is loaded that is sampled by trigflow. The video waits" in str(logs)


# A clip.


@pytest.mark.asyncio(loop_scope="module")
async def test_of_a_clip_five_frames_are_kept(everything: httpx.AsyncClient) -> None:
    job = await submitted(everything, f"{APP}/video-to-video")
    assert (await result_of(everything, job)).status_code == 200
    store = app_of(everything).state.services.store
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
    everything: httpx.AsyncClient, video: Any, kind: str, message: str
) -> None:
    job = await submitted(everything, f"{APP}/video-to-video", video_url=data_uri(video()))
    answer = await result_of(everything, job)
    (item,) = answer.json()["detail"]

    assert (answer.status_code, item["type"]) == (422, kind)
    assert item["loc"] == ["body", "video_url"]
    assert item["input"] == "data:…"
    assert message in item["msg"]


# A long video.


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("fields", "frames", "overlap"),
    [
        ({}, 2 * MAX_FRAMES - 5, 5),
        ({"overlap": 1}, 2 * MAX_FRAMES - 5, 1),
        ({"num_frames": 4 * MAX_FRAMES - 3, "overlap": 1}, 4 * MAX_FRAMES - 3, 1),
        ({"num_frames": 9, "resample_fps": True}, 9, 5),
    ],
)
async def test_a_long_video_has_up_to_four_times_the_frames_of_the_checkpoint(
    everything: httpx.AsyncClient, fields: dict[str, Any], frames: int, overlap: int
) -> None:
    job = await submitted(everything, EXTEND, **fields)
    video = (await result_of(everything, job, app=EXTEND)).json()["video"]
    spec = VideoSpec.from_json(app_of(everything).state.services.store.job(job).input["spec"])

    assert (video["num_frames"], video["duration"]) == (frames, frames / 16)
    assert (spec.num_frames, spec.overlap, spec.conditioning) == (frames, overlap, Clip())


@pytest.mark.asyncio(loop_scope="module")
async def test_a_long_video_starts_from_a_picture_too(everything: httpx.AsyncClient) -> None:
    given = {"video_url": None, "image_url": data_uri(picture()), "resample_fps": True}
    job = await submitted(everything, EXTEND, **given)
    assert (await result_of(everything, job, app=EXTEND)).status_code == 200
    services = app_of(everything).state.services
    status = (await status_of(everything, job, app=EXTEND, logs="1")).json()

    spec = VideoSpec.from_json(services.store.job(job).input["spec"])
    assert spec.conditioning == FirstFrame()
    assert "resample_fps has no effect" in str(status["logs"])


@pytest.mark.asyncio(loop_scope="module")
async def test_frames_are_taken_at_16_a_second_if_that_is_asked_for(
    everything: httpx.AsyncClient,
) -> None:
    """Of a clip of 64 frames a second, whose last five take no more than a moment."""
    fast = data_uri(clip(source="testsrc2=s=96x64:r=64:d=0.5"))
    jobs = [
        await submitted(everything, EXTEND, video_url=fast, num_frames=9, resample_fps=resample)
        for resample in (False, True)
    ]
    for job in jobs:
        assert (await result_of(everything, job, app=EXTEND)).status_code == 200
    store = app_of(everything).state.services.store
    own, resampled = (store.job(job).input_refs["video"] for job in jobs)
    assert own != resampled

    short = data_uri(clip(source="testsrc2=s=96x64:r=64:d=0.2"))
    job = await submitted(everything, EXTEND, video_url=short, resample_fps=True)
    (item,) = (await result_of(everything, job, app=EXTEND)).json()["detail"]
    assert item["type"] == "video_duration_too_short"
    assert item["msg"] == "At 16 frames a second the video has 3; 5 are needed."
