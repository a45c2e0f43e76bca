"""What is to be expected of a request, before it is submitted and while it waits."""

from pathlib import Path

from api_keys import add_key, by_key
from job_fixtures import sql
from queue_calls import cancel, result_of, status_of, submit, until
from servers import (
    ENDPOINT,
    MAX_FRAMES,
    data_uri,
    picture,
    request_of,
    serving,
    settings_in,
)

from server.fal.endpoints import EXTEND
from server.keys import Scope

ESTIMATE = f"/v1/estimate/{ENDPOINT}"
MEASURED = '{"denoise": 40.0, "decode": 2.0}'


async def test_the_seconds_and_the_wait_follow_from_what_was_made_here(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        first = (await client.post(ESTIMATE, json=request_of())).json()
        assert (first["endpoint_id"], first["queue_position"]) == (ENDPOINT, 0)
        assert (first["stage_seconds"], first["seconds"], first["wait_seconds"]) == (None, None, 0)
        made = await submit(client)
        await result_of(client, made)
        # The scripted worker takes no time.
        result = f"json_set(result, '$.stage_seconds', json('{MEASURED}'))"
        setting = f"UPDATE jobs SET result = {result} WHERE id = '{made}'"
        sql(settings.data / "jobs.sqlite3", setting)
        running = await submit(client, "wait")
        await until(client, running, "IN_PROGRESS")
        waiting = await submit(client)

        found = (await client.post(ESTIMATE, json=request_of(num_inference_steps=4))).json()
        assert found["stage_seconds"] == {"denoise": 80.0, "decode": 2.0}
        assert found["seconds"] == 82.0
        assert found["queue_position"] == 1
        assert 42 < found["wait_seconds"] <= 84
        assert found["starts_at"].endswith("Z")

        status = (await status_of(client, waiting)).json()
        assert status["estimate"]["seconds"] == 42.0
        assert 0 < status["estimate"]["wait_seconds"] <= 42
        for job in (running, waiting):
            await cancel(client, job)
            await result_of(client, job)
            assert "estimate" not in (await status_of(client, job)).json()


async def test_a_long_video_takes_the_steps_and_the_decoding_of_all_its_chunks(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path)
    body = {"prompt": "a car", "image_url": data_uri(picture()), "num_inference_steps": 2}
    body |= {"overlap": 1}
    lengths = {1: MAX_FRAMES, 2: 2 * MAX_FRAMES - 1, 4: 4 * MAX_FRAMES - 3}
    async with serving(settings) as client:
        short = body | {"num_frames": MAX_FRAMES}
        made = (await client.post(f"/queue/{EXTEND}", json=short)).json()["request_id"]
        await result_of(client, made, app=EXTEND)
        result = f"json_set(result, '$.stage_seconds', json('{MEASURED}'))"
        sql(settings.data / "jobs.sqlite3", f"UPDATE jobs SET result = {result}")
        found = {
            chunks: await client.post(f"/v1/estimate/{EXTEND}", json=body | {"num_frames": frames})
            for chunks, frames in lengths.items()
        }

    for chunks, answer in found.items():
        seconds = {"denoise": chunks * 40.0, "decode": chunks * 2.0}
        assert answer.json()["stage_seconds"] == seconds


async def test_nothing_is_submitted_and_errors_have_the_shape_of_the_platform_s(
    tmp_path: Path,
) -> None:
    async with serving(settings_in(tmp_path)) as client:
        wrong = await client.post(ESTIMATE, json=request_of(num_inference_steps=500))
        assert (wrong.status_code, wrong.json()["error"]["type"]) == (400, "validation_error")
        assert "less than or equal to 50" in wrong.json()["error"]["message"]
        unknown = await client.post("/v1/estimate/fal-ai/nothing", json=request_of())
        assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found")
        assert (await client.post(ESTIMATE, json=request_of())).status_code == 200
        assert (await client.post(ESTIMATE, json=request_of())).json()["queue_position"] == 0


async def test_it_takes_a_key_that_may_ask_for_videos(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    runner, uploader = add_key(settings), add_key(settings, scopes=frozenset({Scope.FILES}))
    async with serving(settings) as client:
        answers = [
            await client.post(ESTIMATE, json=request_of(), headers=headers)
            for headers in ({}, by_key(uploader), by_key(runner))
        ]
        assert [answer.status_code for answer in answers] == [401, 403, 200]
        assert answers[0].json()["error"]["type"] == "authorization_error"
