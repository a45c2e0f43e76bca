"""OpenAI's videos API, over the real app with a scripted worker."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_calls import Connection
from clips import clip
from job_fixtures import sql
from queue_calls import status_of, until
from servers import (
    APP,
    HEIGHT,
    MAX_FRAMES,
    WIDTH,
    data_uri,
    picture,
    serving,
    settings_in,
)
from video_calls import NOBODY, SHORT, VIDEOS, content, create, problem, until_it_is
from workers import BYTES, THUMBNAIL

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIP = f"data:video/mp4;base64,{data_uri(clip()).partition(',')[2]}"


async def test_a_video_is_asked_for_followed_and_read(client: httpx.AsyncClient) -> None:
    # It waits for as long as the queue is paused.
    await client.post("/admin/queue/pause")
    made = await create(client, seed=7, model=f"{APP}/text-to-video", size=f"{WIDTH}x{HEIGHT}")
    await client.post("/admin/queue/resume")

    assert made == {
        "id": made["id"],
        "object": "video",
        "model": f"{APP}/text-to-video",
        "status": "queued",
        "progress": 0,
        "created_at": made["created_at"],
        "completed_at": None,
        "expires_at": None,
        "size": f"{WIDTH}x{HEIGHT}",
        "seconds": "0.5625",
        "prompt": "a red car",
        "remixed_from_video_id": None,
        "error": None,
        "num_frames": 9,
        "fps": 16,
        "seed": 7,
    }
    done = await until_it_is(client, made, "completed")
    changed = {"status": "completed", "progress": 100, "completed_at": done["completed_at"]}
    assert done == made | changed
    assert made["created_at"] <= done["completed_at"]
    file = await content(client, made)
    assert (file.headers["content-type"], len(file.content)) == ("video/mp4", BYTES)
    part = await content(client, made, range="bytes=10-19")
    assert (part.status_code, part.content) == (206, file.content[10:20])
    small = await content(client, made, "thumbnail")
    assert (small.headers["content-type"], small.content) == ("image/webp", THUMBNAIL)
    # It is a job as any other.
    assert (await status_of(client, made["id"])).json()["status"] == "COMPLETED"


async def test_the_progress_is_that_of_the_steps(client: httpx.AsyncClient) -> None:
    video = await create(client, "wait 3", num_inference_steps=4)
    while (view := await until_it_is(client, video, "in_progress"))["progress"] == 0:
        pass

    assert view["progress"] == 75
    early = problem(await content(client, video), 404)
    assert early["message"] == "This video is in_progress, so it has no content."
    await client.delete(f"{VIDEOS}/{video['id']}")


@pytest.mark.parametrize(
    ("fields", "endpoint"),
    [
        ({}, "text-to-video"),
        ({"input_reference": {"image_url": data_uri(picture())}}, "image-to-video"),
        ({"image_reference": data_uri(picture())}, "image-to-video"),
        ({"reference_url": "http://127.0.0.1:1/a.png"}, "image-to-video"),
        ({"reference_url": "http://127.0.0.1:1/a.MP4?b=c"}, "video-to-video"),
        ({"input_reference": CLIP}, "video-to-video"),
        ({"video_reference": {"video_url": "http://127.0.0.1:1/a"}}, "video-to-video"),
        # What the model takes counts more than what the URL looks like.
        (
            {"input_reference": "http://127.0.0.1:1/a", "model": f"{APP}/video-to-video"},
            "video-to-video",
        ),
    ],
)
async def test_the_model_follows_from_what_the_video_begins_with(
    client: httpx.AsyncClient, fields: dict[str, Any], endpoint: str
) -> None:
    assert (await create(client, **fields))["model"] == f"{APP}/{endpoint}"


@pytest.mark.parametrize(
    ("field", "file", "more", "endpoint"),
    [
        ("input_reference", picture(), {}, "image-to-video"),
        ("input_reference", clip(), {}, "video-to-video"),
        ("video_reference", clip(), {}, "video-to-video"),
        ("nothing", b"", {}, "text-to-video"),
        (
            *("nothing", b""),
            {"input_reference[image_url]": data_uri(picture())},
            "image-to-video",
        ),
        (
            *("nothing", b""),
            {"image_reference": f'{{"image_url": "{data_uri(picture())}"}}'},
            "image-to-video",
        ),
    ],
)
async def test_a_form_says_the_same_as_json(
    client: httpx.AsyncClient, field: str, file: bytes, more: dict[str, str], endpoint: str
) -> None:
    name = "a file" if file else ""
    fields = {"prompt": "a red car", "seconds": "1", "num_inference_steps": "2", "seed": "", **more}
    answer = await client.post(VIDEOS, data=fields, files={field: (name, file)})

    made = answer.json()
    assert (answer.status_code, made["model"]) == (200, f"{APP}/{endpoint}")
    assert (made["seconds"], made["num_frames"]) == ("1", 16)
    await until_it_is(client, made, "completed")


async def test_the_same_form_with_the_same_idempotency_key_is_one_video(
    client: httpx.AsyncClient,
) -> None:
    """Though each has a boundary of its own."""
    answers = [
        await client.post(
            VIDEOS,
            data={"prompt": "a red car", **{name: str(SHORT[name]) for name in SHORT}},
            files={"input_reference": picture()},
            headers={"idempotency-key": "the same"},
        )
        for _ in range(2)
    ]

    assert answers[0].request.headers["content-type"] != answers[1].request.headers["content-type"]
    assert answers[0].json()["id"] == answers[1].json()["id"]


@pytest.mark.parametrize(
    ("fields", "num_frames"),
    [
        ({"seconds": "2"}, 32),
        ({"seconds": 2.53}, 40),
        ({"seconds": None}, MAX_FRAMES),
        ({"seconds": "12", "num_frames": 9}, 9),
    ],
)
async def test_seconds_are_frames(
    client: httpx.AsyncClient, fields: dict[str, Any], num_frames: int
) -> None:
    wanted = {"prompt": "a red car", "num_inference_steps": 2}
    made = (await client.post(VIDEOS, json=wanted | fields)).json()

    assert (made["num_frames"], float(made["seconds"])) == (num_frames, num_frames / 16)


@pytest.mark.parametrize("path", [VIDEOS, f"{VIDEOS}/sync"])
@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"seconds": "4"}, "seconds", "4 seconds are 64 frames. Input should be less than or "),
        ({"seconds": 1e300}, "seconds", "less than or equal to 93"),
        ({"seconds": "0.1"}, "seconds", "0.1 seconds are 2 frames. Input should be greater than"),
        ({"seconds": "long"}, "seconds", "valid number"),
        ({"num_frames": 94}, "num_frames", "less than or equal to 93"),
        ({"size": "1280x720"}, "size", "it can be '96x64' or be left out"),
        ({"width": 1280}, "width", "it can be 96"),
        ({"fps": 24}, "fps", "it can be 16"),
        ({"model": "sora-2"}, "model", f"it has {APP}/image-to-video"),
        ({"model": f"{APP}/image-to-video"}, "input_reference", "Field required"),
        ({"model": f"{APP}/text-to-video", "video_url": CLIP}, "video_url", "takes no video"),
        ({"image_url": "a", "input_reference": "b"}, "image_url", "begins with one"),
        ({"input_reference": {}}, "input_reference", "one of image_url, video_url and file_id"),
        ({"input_reference": {"file_id": NOBODY}}, "input_reference", "no such file"),
        ({"guidance_scale": 21}, "guidance_scale", "less than or equal to 20"),
        ({"video_quality": "best"}, "video_quality", "'low', 'medium', 'high' or 'maximum'"),
        ({"prompt": None}, "prompt", "valid string"),
    ],
)
async def test_what_cannot_be_made_is_a_400_that_says_why(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any], param: str, words: str
) -> None:
    answer = await client.post(path, json={"prompt": "a red car"} | fields)

    error = problem(answer, 400)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert words in error["message"]


@pytest.mark.parametrize("prompt", ["raise", "refuse"])
async def test_a_video_that_failed_has_fals_type_as_its_code(
    client: httpx.AsyncClient, prompt: str
) -> None:
    code = {"raise": "internal_error", "refuse": "image_too_large"}[prompt]
    video = await create(client, prompt, image_url=data_uri(picture()))
    view = await until_it_is(client, video, "failed")

    assert view["error"]["code"] == code
    assert view["error"]["message"]
    assert (view["progress"], view["completed_at"] is None) == (50, False)
    for variant in ("video", "thumbnail"):
        problem(await content(client, video, variant), 404)


async def test_other_files_than_the_two_are_refused(client: httpx.AsyncClient) -> None:
    error = problem(await content(client, {"id": NOBODY}, "spritesheet"), 404)
    assert error["message"] == "Video not found"
    video = await create(client)
    await until_it_is(client, video, "completed")
    error = problem(await content(client, video, "spritesheet"), 400)
    assert error["param"] == "variant"


async def test_a_page_of_videos_is_followed_by_the_next(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        ids = [(await create(client))["id"] for _ in range(4)]
        # fal's requests are videos here, too, and one of them never had an input.
        invalid = await client.post(f"/queue/{APP}/image-to-video", json={})
        ids.append(invalid.json()["request_id"])

        async def page(**query: Any) -> Any:
            return (await client.get(VIDEOS, params=query)).json()

        for order, expected in (("asc", ids), ("desc", ids[::-1])):
            seen: list[str] = []
            query: dict[str, Any] = {"order": order, "limit": 2}
            while True:
                found = await page(**query)
                listed = [each["id"] for each in found["data"]]
                assert (found["first_id"], found["last_id"]) == (listed[0], listed[-1])
                seen += listed
                if not found["has_more"]:
                    break
                query["after"] = found["last_id"]
            assert seen == expected
        failed = (await page())["data"][0]
        assert (failed["status"], failed["prompt"], failed["seconds"]) == ("failed", None, None)
        assert failed["error"]["code"] == "missing"
        assert await page(after=ids[0]) == {
            "object": "list",
            "data": [],
            "has_more": False,
            "first_id": None,
            "last_id": None,
        }
        for query in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": NOBODY}):
            error = problem(await client.get(VIDEOS, params=query), 400)
            assert error["param"] == next(iter(query))


async def test_what_is_deleted_stops_and_is_gone(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        made = await create(client)
        url = (await until(client, made["id"], "COMPLETED"))["response_url"]
        file = (await client.get(url)).json()["video"]["url"]
        running = await create(client, "wait")
        await until_it_is(client, running, "in_progress")
        waiting, last = await create(client), await create(client)

        for video in (made, waiting, running):
            answer = await client.delete(f"{VIDEOS}/{video['id']}")
            assert answer.json() == {"id": video["id"], "object": "video.deleted", "deleted": True}
            problem(await client.get(f"{VIDEOS}/{video['id']}"), 404)
            problem(await client.delete(f"{VIDEOS}/{video['id']}"), 404)
            assert (await status_of(client, video["id"])).status_code == 404
        assert (await client.get(file)).status_code == 404
        # The only worker is free again.
        await until_it_is(client, last, "completed")
        assert [each["id"] for each in (await client.get(VIDEOS)).json()["data"]] == [last["id"]]
        kinds = sql(tmp_path / "data" / "jobs.sqlite3", "SELECT kind FROM artifacts ORDER BY kind")
        assert kinds == [("thumbnail",), ("video",)]
        assert len(list((tmp_path / "data" / "files").glob("*/*"))) == 2


async def test_sync_answers_with_the_bytes(client: httpx.AsyncClient) -> None:
    request = {"prompt": "a red car", **SHORT, "seed": 7}
    answer = await client.post(f"{VIDEOS}/sync", json=request)

    assert (answer.headers["content-type"], len(answer.content)) == ("video/mp4", BYTES)
    made = {"id": answer.headers["x-request-id"]}
    assert (await content(client, made)).content == answer.content
    assert answer.headers["x-model"] == f"{APP}/text-to-video"
    assert float(answer.headers["x-inference-time-s"]) >= 0
    other = {**request, "video_output_type": "GIF (.gif)", "video_quality": "low"}
    gif = await client.post(f"{VIDEOS}/sync", json=other)
    assert gif.headers["content-type"] == "image/gif"


async def test_a_failure_of_sync_has_openais_shape(client: httpx.AsyncClient) -> None:
    for prompt, status, code in (
        ("raise", 500, "internal_error"),
        ("refuse", 400, "image_too_large"),
    ):
        answer = await client.post(f"{VIDEOS}/sync", json={"prompt": prompt, **SHORT})
        assert problem(answer, status)["code"] == code


async def test_a_caller_of_sync_who_leaves_frees_the_worker(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, disconnect_grace=0.0)) as client:
        async with Connection(client, f"{VIDEOS}/sync", {"prompt": "wait", **SHORT}):
            while not (await client.get(VIDEOS)).json()["data"]:
                await asyncio.sleep(0.01)
        after = await create(client)
        await until_it_is(client, after, "completed")
        cancelled = (await client.get(VIDEOS)).json()["data"][1]
        assert cancelled["error"]["code"] == "client_cancelled"
