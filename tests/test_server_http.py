"""The wire protocol that fal's clients speak, over the real app with a scripted worker."""

import asyncio
import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import APP, BASE_URL, ENDPOINT, data_uri, picture, request_of, serving, settings_in

from server.app import StartRefused, create_app

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUN = f"/run/{ENDPOINT}"
SUBMIT = f"/queue/{ENDPOINT}"
NOBODY = "00000000-0000-4000-8000-000000000000"


async def submit(client: httpx.AsyncClient, prompt: str = "a red car", **fields: Any) -> str:
    answer = await client.post(SUBMIT, json=request_of(prompt, **fields))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


async def status_of(client: httpx.AsyncClient, job: str, **params: Any) -> httpx.Response:
    return await client.get(f"/queue/{APP}/requests/{job}/status", params=params)


async def until(client: httpx.AsyncClient, job: str, status: str) -> dict[str, Any]:
    while True:
        body: dict[str, Any] = (await status_of(client, job, logs="1")).json()
        if body["status"] == status:
            return body
        assert body["status"] != "COMPLETED", body
        await asyncio.sleep(0.02)


async def cancel(client: httpx.AsyncClient, job: str) -> httpx.Response:
    return await client.put(f"/queue/{APP}/requests/{job}/cancel")


async def result_of(client: httpx.AsyncClient, job: str) -> httpx.Response:
    await until(client, job, "COMPLETED")
    return await client.get(f"/queue/{APP}/requests/{job}")


# Run


@pytest.mark.parametrize(
    ("path", "host"),
    [(RUN, "localhost"), (f"/{ENDPOINT}", "localhost"), (f"/{ENDPOINT}", "fal.run")],
)
async def test_run_answers_with_the_video_and_the_seed(
    client: httpx.AsyncClient, path: str, host: str
) -> None:
    answer = await client.post(path, json=request_of(seed=7, num_frames=9), headers={"host": host})

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-fal-request-id"]
    output = answer.json()
    assert list(output) == ["video", "seed"]
    assert output["seed"] == 7
    video = output["video"]
    assert video.pop("url").startswith(f"http://{host}/files/")
    assert video == {
        "content_type": "video/mp4",
        "file_name": "video.mp4",
        "file_size": 65536,
        "width": 96,
        "height": 64,
        "fps": 16.0,
        "duration": 9 / 16,
        "num_frames": 9,
    }


@pytest.mark.parametrize(
    ("output_type", "content_type"),
    [
        ("VP9 (.webm)", "video/webm"),
        ("PRORES4444 (.mov)", "video/quicktime"),
        ("GIF (.gif)", "image/gif"),
    ],
)
async def test_the_output_is_of_the_type_that_was_asked_for(
    client: httpx.AsyncClient, output_type: str, content_type: str
) -> None:
    answer = await client.post(RUN, json=request_of(video_output_type=output_type))
    file = await client.get(answer.json()["video"]["url"])

    assert answer.json()["video"]["content_type"] == content_type
    assert file.headers["content-type"] == content_type


async def test_the_same_seed_gives_the_same_file(client: httpx.AsyncClient) -> None:
    outputs = [(await client.post(RUN, json=request_of(seed=7))).json() for _ in range(2)]
    first, second = [(await client.get(output["video"]["url"])).content for output in outputs]

    assert outputs[0]["video"]["url"] != outputs[1]["video"]["url"]
    assert first == second


async def test_run_refuses_invalid_input_at_once(client: httpx.AsyncClient) -> None:
    answer = await client.post(RUN, json={"prompt": "a red car", "num_frames": 94})

    assert answer.status_code == 422
    assert answer.headers["x-fal-billable-units"] == "0"
    assert [item["loc"] for item in answer.json()["detail"]] == [
        ["body", "num_frames"],
        ["body", "image_url"],
    ]
    assert answer.json()["detail"][0] == {
        "loc": ["body", "num_frames"],
        "msg": "Input should be less than or equal to 93",
        "type": "less_than_equal",
        "url": "https://docs.fal.ai/errors#less_than_equal",
        "input": 94,
        "ctx": {"le": 93},
    }


async def test_the_frames_are_limited_to_what_the_checkpoint_can_do(
    client: httpx.AsyncClient,
) -> None:
    refused = await client.post(RUN, json=request_of(num_frames=46))
    by_default = await client.post(RUN, json=request_of())

    assert refused.json()["detail"][0]["ctx"] == {"le": 45}
    assert by_default.json()["video"]["num_frames"] == 45


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b'{"seed": NaN}', b"[" * 50_000])
async def test_a_body_that_is_no_request_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post(RUN, content=body)

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "body"


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", ""])
async def test_json_is_read_whatever_its_content_type(
    client: httpx.AsyncClient, content_type: str
) -> None:
    answer = await client.post(
        RUN, content=json.dumps(request_of()), headers={"content-type": content_type}
    )

    assert answer.status_code == 200


async def test_a_body_beyond_all_bounds_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post(RUN, content=bytes(33 * 1024 * 1024))

    assert answer.status_code == 413


async def test_sync_mode_gives_a_data_uri(client: httpx.AsyncClient) -> None:
    output = (await client.post(RUN, json=request_of(seed=7, sync_mode=True))).json()
    by_url = (await client.post(RUN, json=request_of(seed=7))).json()
    kind, _, encoded = output["video"]["url"].partition(",")

    assert kind == "data:video/mp4;base64"
    assert base64.b64decode(encoded) == (await client.get(by_url["video"]["url"])).content


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", RUN, 405),
        ("GET", SUBMIT, 405),
        ("POST", "/run/fal-ai/another", 404),
        ("POST", "/queue/fal-ai/another", 404),
        ("GET", "/run/fal-ai/another", 404),
        ("GET", "/", 404),
        ("GET", "//", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/files/nothing/here.mp4", 404),
        ("GET", "/files/a%2f..%2fb/c", 404),
        ("POST", f"{RUN}/stream", 404),
    ],
)
async def test_what_is_not_served_is_answered_in_json(
    client: httpx.AsyncClient, method: str, path: str, code: int
) -> None:
    answer = await client.request(method, path)

    assert answer.status_code == code
    assert isinstance(answer.json()["detail"], str)
    assert answer.headers["x-fal-request-id"]
    assert ("allow" in answer.headers) == (code == 405)


async def test_an_unknown_path_is_named_as_fal_names_it(client: httpx.AsyncClient) -> None:
    answer = await client.post("/run/fal-ai/another")

    assert answer.json() == {"detail": "Path /fal-ai/another not found"}
    assert answer.headers["x-fal-billable-units"] == "0"


async def test_a_malformed_host_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post(RUN, json=request_of(), headers={"host": "a/b"})

    assert answer.status_code == 400
    assert answer.json()["error_type"] == "bad_request"


# Queue


async def test_submit_answers_with_urls_on_the_host_that_was_used(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post(SUBMIT, json=request_of())
    body = answer.json()
    job = body["request_id"]

    assert answer.status_code == 200
    assert answer.headers["x-fal-request-id"] == job
    assert body["status"] == "IN_QUEUE"
    assert body["gateway_request_id"] == job
    assert body["response_url"] == f"{BASE_URL}/queue/{APP}/requests/{job}"
    assert body["status_url"] == f"{BASE_URL}/queue/{APP}/requests/{job}/status"
    assert body["cancel_url"] == f"{BASE_URL}/queue/{APP}/requests/{job}/cancel"
    assert isinstance(body["queue_position"], int)
    assert (await result_of(client, job)).status_code == 200


async def test_on_fals_own_host_the_urls_have_no_prefix(client: httpx.AsyncClient) -> None:
    host = {"host": "queue.fal.run"}
    job = (await client.post(f"/{ENDPOINT}", json=request_of(), headers=host)).json()

    assert job["status_url"].startswith(f"http://queue.fal.run/{APP}/requests/")
    answer = await client.get(job["status_url"].removeprefix("http://queue.fal.run"), headers=host)
    assert answer.status_code in (200, 202)
    # The job belongs to the host that it was submitted to: so do its URLs, whoever asks.
    elsewhere = await status_of(client, job["request_id"])
    assert elsewhere.json()["status_url"] == job["status_url"]


@pytest.mark.parametrize("app", [APP, ENDPOINT])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_both_forms_of_every_path_work_without_a_redirect(
    client: httpx.AsyncClient, app: str, slash: str
) -> None:
    job = await submit(client)
    await until(client, job, "COMPLETED")
    request = f"/queue/{app}/requests/{job}"

    assert (await client.get(f"{request}/status{slash}?logs=0")).status_code == 200
    assert (await client.get(f"{request}{slash}")).status_code == 200
    assert (await client.put(f"{request}/cancel{slash}")).status_code == 400


async def test_a_request_is_unknown_under_another_app(client: httpx.AsyncClient) -> None:
    job = await submit(client)

    answer = await client.get(f"/queue/fal-ai/another/requests/{job}/status")

    assert answer.status_code == 404


async def test_the_status_follows_the_job(client: httpx.AsyncClient) -> None:
    running = await submit(client, "sleep 3600")
    waiting = await submit(client)
    await until(client, running, "IN_PROGRESS")

    answer = await status_of(client, running)
    assert answer.status_code == 202
    assert (answer.json()["logs"], answer.json()["metrics"]) == (None, {})
    answer = await status_of(client, waiting)
    assert answer.status_code == 202
    assert answer.json()["status"] == "IN_QUEUE"
    assert answer.json()["queue_position"] == 0

    await cancel(client, running)
    await until(client, waiting, "COMPLETED")
    answer = await status_of(client, waiting)
    assert answer.status_code == 200
    assert answer.json()["metrics"]["inference_time"] > 0
    assert "error" not in answer.json()


@pytest.mark.parametrize("switch", ["1", "true", "True"])
async def test_logs_tell_a_person_what_is_going_on(client: httpx.AsyncClient, switch: str) -> None:
    job = await submit(client, num_inference_steps=3)
    await until(client, job, "COMPLETED")

    logs = (await status_of(client, job, logs=switch)).json()["logs"]

    messages = [line["message"] for line in logs]
    assert messages[0] == "Started on cpu"
    assert "Reading the prompt" in messages
    assert "The script begins." in messages
    assert "Step 2 of 3, 0.00 s a step, about 0.0 s left" in messages
    assert messages[-1] == "Encoding the video"
    for line in logs:
        assert set(line) == {"message", "level", "source", "timestamp", "labels"}
        assert line["labels"] == {"level": line["level"]}
        assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize("switch", ["0", "false"])
async def test_logs_are_null_where_they_were_not_asked_for(
    client: httpx.AsyncClient, switch: str
) -> None:
    job = await submit(client)
    await until(client, job, "COMPLETED")

    body = (await status_of(client, job, logs=switch)).json()

    assert "logs" in body
    assert body["logs"] is None


async def test_a_result_asked_for_too_early_is_still_in_progress(
    client: httpx.AsyncClient,
) -> None:
    job = await submit(client, "sleep 3600")

    answer = await client.get(f"/queue/{APP}/requests/{job}")

    assert answer.status_code == 400
    assert answer.json() == {"detail": "Request is still in progress"}
    assert answer.headers["x-fal-request-id"] == job
    await cancel(client, job)


async def test_a_result_asked_for_twice_is_the_same(client: httpx.AsyncClient) -> None:
    job = await submit(client)

    first = await result_of(client, job)
    again = await result_of(client, job)

    assert first.status_code == 200
    assert first.headers["x-fal-request-id"] == job
    assert first.content == again.content


async def test_invalid_input_is_accepted_and_reported_by_the_result(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post(SUBMIT, json=request_of(num_frames=8))
    job = answer.json()["request_id"]

    assert (answer.status_code, answer.json()["status"]) == (200, "IN_QUEUE")
    status = await status_of(client, job)
    assert (status.status_code, status.json()["status"]) == (200, "COMPLETED")
    assert "error" not in status.json(), "only failures of the infrastructure are told here"
    result = await client.get(f"/queue/{APP}/requests/{job}")
    assert result.status_code == 422
    assert result.json()["detail"][0]["type"] == "greater_than_equal"
    assert result.headers["x-fal-billable-units"] == "0"


@pytest.mark.parametrize(("method", "tail"), [("GET", "/status"), ("GET", ""), ("PUT", "/cancel")])
async def test_an_unknown_request_is_not_found(
    client: httpx.AsyncClient, method: str, tail: str
) -> None:
    answer = await client.request(method, f"/queue/{APP}/requests/{NOBODY}{tail}")

    assert answer.status_code == 404
    assert answer.json() == {"detail": "Request not found"}


async def test_concurrent_submits_are_jobs_of_their_own(client: httpx.AsyncClient) -> None:
    jobs = await asyncio.gather(*(submit(client) for _ in range(4)))
    outputs = [(await result_of(client, job)).json() for job in jobs]

    assert len(set(jobs)) == 4
    assert len({output["seed"] for output in outputs}) == 4


async def test_a_webhook_is_refused_while_none_is_sent(client: httpx.AsyncClient) -> None:
    answer = await client.post(SUBMIT, params={"fal_webhook": "https://a.b/c"}, json=request_of())

    assert answer.status_code == 400
    assert answer.json()["error_type"] == "bad_request"


# Cancel


async def test_a_job_that_waits_is_cancelled_and_never_runs(client: httpx.AsyncClient) -> None:
    running = await submit(client, "sleep 3600")
    waiting = await submit(client)
    answer = await cancel(client, waiting)

    assert answer.status_code == 202
    assert answer.json() == {"status": "CANCELLATION_REQUESTED"}
    status = await status_of(client, waiting, logs="1")
    assert status.json()["status"] == "COMPLETED"
    assert status.json()["logs"] == []
    assert status.json()["error_type"] == "client_cancelled"
    result = await client.get(f"/queue/{APP}/requests/{waiting}")
    assert result.status_code == 499
    assert result.json() == {
        "detail": "Request cancelled by the client.",
        "error_type": "client_cancelled",
    }
    assert result.headers["x-fal-error-type"] == "client_cancelled"
    await cancel(client, running)


async def test_a_running_job_is_cancelled_within_its_step(client: httpx.AsyncClient) -> None:
    job = await submit(client, "sleep 3600")
    await until(client, job, "IN_PROGRESS")

    answer = await cancel(client, job)

    assert answer.status_code == 202
    assert (await result_of(client, job)).status_code == 499
    next_one = await result_of(client, await submit(client))
    assert next_one.status_code == 200


async def test_a_finished_job_cannot_be_cancelled(client: httpx.AsyncClient) -> None:
    job = await submit(client)
    before = await result_of(client, job)

    answer = await cancel(client, job)

    assert answer.status_code == 400
    assert answer.json() == {"status": "ALREADY_COMPLETED"}
    assert (await result_of(client, job)).content == before.content


# Pictures


@pytest.mark.parametrize(
    ("image_url", "kind"),
    [
        ("data:image/png;base64,AAAA", "image_load_error"),
        ("data:image/png;base64,!", "image_load_error"),
        ("data:image/png;base64", "image_load_error"),
        (data_uri(picture(1, 1)), "image_too_small"),
        (f"{BASE_URL}/files/nothing/here.png", "file_download_error"),
        ("http://127.0.0.1:9/car.png", "file_download_error"),
        ("ftp://example.com/car.png", "file_download_error"),
        ("car.png", "file_download_error"),
        ("", "file_download_error"),
    ],
)
async def test_a_picture_that_cannot_be_used_is_reported_in_fals_words(
    client: httpx.AsyncClient, image_url: str, kind: str
) -> None:
    by_run = await client.post(RUN, json=request_of(image_url=image_url))
    by_queue = await result_of(client, await submit(client, image_url=image_url))

    for answer in (by_run, by_queue):
        assert answer.status_code == 422
        (item,) = answer.json()["detail"]
        assert item["loc"] == ["body", "image_url"]
        assert item["type"] == kind
        assert item["url"] == f"https://docs.fal.ai/errors#{kind}"
        assert item["input"] == image_url[:200] or item["input"] == "data:…"


async def test_a_data_uri_need_not_be_base64_nor_say_its_type(client: httpx.AsyncClient) -> None:
    quoted = "data:," + "".join(f"%{byte:02x}" for byte in picture())

    answer = await client.post(RUN, json=request_of(image_url=quoted))

    assert answer.status_code == 200


async def test_a_file_of_our_own_is_read_from_the_disk(client: httpx.AsyncClient) -> None:
    video = (await client.post(RUN, json=request_of())).json()["video"]["url"]

    answer = await client.post(RUN, json=request_of(image_url=video))

    # It was found, though nothing listens at that address; but a video is no picture.
    assert answer.json()["detail"][0]["type"] == "image_load_error"


async def test_the_worker_gets_the_picture_at_the_size_of_the_checkpoint(
    client: httpx.AsyncClient,
) -> None:
    async def video(colour: str) -> bytes:
        image_url = data_uri(picture(333, 100, colour))
        output = (await client.post(RUN, json=request_of(image_url=image_url, seed=1))).json()
        return (await client.get(output["video"]["url"])).content

    assert await video("red") != await video("green")


# Faults of workers


async def test_a_job_whose_worker_died_is_run_again(client: httpx.AsyncClient) -> None:
    job = await submit(client, "killed 1 once")

    assert (await result_of(client, job)).status_code == 200
    logs = (await status_of(client, job, logs="1")).json()["logs"]
    assert any(line["level"] == "ERROR" for line in logs)
    assert any(line["message"] == "Started on cpu, try 2" for line in logs)


async def test_a_job_that_two_workers_died_on_fails_with_the_reason(
    client: httpx.AsyncClient,
) -> None:
    job = await submit(client, "killed 1")
    status = await until(client, job, "COMPLETED")
    result = await result_of(client, job)

    assert status["error_type"] == "runner_server_error"
    assert "killed" in status["error"]
    assert result.status_code == 500
    assert result.json() == {"detail": status["error"], "error_type": "runner_server_error"}
    assert result.headers["x-fal-error-type"] == "runner_server_error"


async def test_an_unforeseen_error_of_a_worker_shows_nothing_of_its_inside(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post(RUN, json=request_of("raise"))

    assert answer.status_code == 500
    assert answer.json()["error_type"] == "internal_error"
    assert "secret" not in answer.text


async def test_an_input_that_the_worker_refuses_is_a_422_of_that_field(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post(RUN, json=request_of("refuse"))

    assert answer.status_code == 422
    assert answer.json()["detail"] == [
        {
            "loc": ["body", "image_url"],
            "msg": "The picture is too small.",
            "type": "image_too_small",
            "url": "https://docs.fal.ai/errors#image_too_small",
            "input": "data:…",
            "ctx": {"min_width": 64},
        }
    ]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [("liesize", "described a file"), ("liehash", "described a file"), ("noartifact", "without")],
)
async def test_a_worker_that_lies_about_its_video_publishes_nothing(
    client: httpx.AsyncClient, prompt: str, reason: str
) -> None:
    answer = await client.post(RUN, json=request_of(prompt))

    assert answer.status_code == 500
    assert answer.json()["error_type"] == "runner_incomplete_response"
    assert reason in answer.json()["detail"]


# Files


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


async def test_prepared_pictures_have_no_url(client: httpx.AsyncClient) -> None:
    await client.post(RUN, json=request_of())
    sent = f"image-{hashlib.sha256(picture()).hexdigest()}"

    assert (await client.get(f"/files/{sent}/image")).status_code == 404


# Health


async def test_health_says_that_the_process_lives_and_a_worker_is_loaded(
    client: httpx.AsyncClient,
) -> None:
    await client.post(RUN, json=request_of())
    live, ready = await client.get("/health/live"), await client.get("/health/ready")

    assert (live.status_code, live.json()) == (200, {"status": "live"})
    assert ready.status_code == 200
    assert ready.json()["slots"][0]["name"] == "cpu"


# Servers of their own


async def test_it_answers_while_a_model_loads(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, worker="workers:SlowLoad")
    loading = settings.weights / "loading"
    loading.touch()
    async with serving(settings) as client:
        job = await submit(client)
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert (await client.get("/health/live")).status_code == 200
        assert (await status_of(client, job)).json()["status"] == "IN_QUEUE"
        loading.unlink()
        assert (await result_of(client, job)).status_code == 200


async def test_a_worker_that_cannot_load_says_why(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, worker="workers:LoadFails")) as client:
        while "down_reason" not in (body := (await client.get("/health/ready")).json())["slots"][0]:
            await asyncio.sleep(0.05)
        assert "proj_out.weight" in body["slots"][0]["down_reason"]


async def test_jobs_outlive_the_server(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        done = await submit(client)
        result = (await result_of(client, done)).content
        running = await submit(client, "sleep 0.5", num_inference_steps=3, seed=5)
        waiting = await submit(client, seed=6)
        await until(client, running, "IN_PROGRESS")

    async with serving(settings) as client:
        assert (await result_of(client, done)).content == result
        first, second = [await result_of(client, job) for job in (running, waiting)]
        assert (first.json()["seed"], second.json()["seed"]) == (5, 6)


async def test_a_checkpoint_of_another_size_has_the_pictures_prepared_anew(
    tmp_path: Path,
) -> None:
    async with serving(settings_in(tmp_path, worker="workers:LoadFails")) as client:
        job = await submit(client)
        while not list(tmp_path.glob("data/files/*/pixels-96x64-*")):
            await asyncio.sleep(0.02)

    settings = settings_in(tmp_path)
    profile = {"width": 64, "height": 48, "guardrail": "none"}
    (settings.weights / "cosmos_serve.json").write_text(json.dumps(profile))
    async with serving(settings) as client:
        output = (await result_of(client, job)).json()
        assert (output["video"]["width"], output["video"]["height"]) == (64, 48)


async def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, queue_limit=1, worker="workers:SlowLoad")
    (settings.weights / "loading").touch()
    async with serving(settings) as client:
        await submit(client)
        for path in (SUBMIT, RUN):
            answer = await client.post(path, json=request_of())
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) > 0
            assert "queue is full" in answer.json()["detail"]
        (settings.weights / "loading").unlink()


async def test_a_server_with_a_key_asks_for_it(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, key="me:s3cret")) as client:
        for header in (None, "Key me:wrong", "Key me", "Basic me:s3cret", "me:s3cret", ""):
            headers: dict[str, str] = {} if header is None else {"authorization": header}
            for path in (RUN, SUBMIT):
                answer = await client.post(path, json=request_of(), headers=headers)
                assert answer.status_code == 401
                assert isinstance(answer.json()["detail"], str)
        for scheme in ("Key", "key", "Bearer"):
            headers = {"authorization": f"{scheme} me:s3cret"}
            answer = await client.post(RUN, json=request_of(), headers=headers)
            assert answer.status_code == 200
        file = await client.get(answer.json()["video"]["url"])
        assert file.status_code == 200, "a file's URL is all that is needed to read it"
        job = (await client.post(SUBMIT, json=request_of(), headers=headers)).json()
        assert (await status_of(client, job["request_id"])).status_code == 401


async def test_a_request_of_another_key_is_not_found(tmp_path: Path) -> None:
    for key in ("me:s3cret", "you:s3cret"):
        headers = {"authorization": f"Key {key}"}
        async with serving(settings_in(tmp_path, key=key)) as client:
            if key.startswith("me"):
                job = (await client.post(SUBMIT, json=request_of(), headers=headers)).json()
            request = f"/queue/{APP}/requests/{job['request_id']}"
            code = (await client.get(f"{request}/status", headers=headers)).status_code
            assert (code == 404) == key.startswith("you")


async def test_the_public_url_begins_every_url(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, public_url="https://videos.example/cosmos/")
    async with serving(settings) as client:
        body = (await client.post(SUBMIT, json=request_of())).json()
        output = (await result_of(client, body["request_id"])).json()

    assert body["status_url"].startswith(f"https://videos.example/cosmos/queue/{APP}/requests/")
    assert output["video"]["url"].startswith("https://videos.example/cosmos/files/")


async def test_a_checkpoint_that_requires_a_guardrail_is_refused_at_the_start(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path)
    (settings.weights / "cosmos_serve.json").unlink()

    with pytest.raises(StartRefused) as refused:
        create_app(settings)

    assert str(settings.weights) in str(refused.value)
    assert "--guardrail off" in str(refused.value)
    async with serving(settings_in(tmp_path, guardrail="off")) as client:
        assert (await client.get("/health/live")).status_code == 200


async def test_an_unforeseen_error_is_answered_without_its_inside(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        job = await submit(client, sync_mode=True)
        await until(client, job, "COMPLETED")
        for file in (settings.data / "files").glob("*/*"):
            file.unlink()

        answer = await client.get(f"/queue/{APP}/requests/{job}")

    assert answer.status_code == 500
    assert answer.json() == {"detail": "Internal Server Error"}
    assert answer.headers["x-fal-request-id"] == job
