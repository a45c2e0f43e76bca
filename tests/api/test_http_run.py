"""The service `fal.run`, over the real app with a scripted worker."""

import base64
import json

import httpx
import pytest
from queue_calls import RUN, SUBMIT
from servers import ENDPOINT, request_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("path", "host", "files"),
    [
        (RUN, "localhost", "localhost"),
        (f"/{ENDPOINT}", "localhost", "localhost"),
        (f"/{ENDPOINT}", "fal.run", "v3.fal.media"),
    ],
)
async def test_run_answers_with_the_video_and_the_seed(
    client: httpx.AsyncClient, path: str, host: str, files: str
) -> None:
    answer = await client.post(path, json=request_of(seed=7, num_frames=9), headers={"host": host})

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-fal-request-id"]
    output = answer.json()
    assert list(output) == ["video", "seed"]
    assert output["seed"] == 7
    video = output["video"]
    assert video.pop("url").startswith(f"http://{files}/files/")
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


async def test_the_size_told_is_that_of_the_file(client: httpx.AsyncClient) -> None:
    """A GIF of low quality is smaller than the frames."""
    video = (await client.post(RUN, json=request_of("small"))).json()["video"]

    assert (video["width"], video["height"]) == (48, 32)


async def test_the_same_seed_gives_the_same_file(client: httpx.AsyncClient) -> None:
    outputs = [(await client.post(RUN, json=request_of(seed=7))).json() for _ in range(2)]
    first, second = [(await client.get(output["video"]["url"])).content for output in outputs]

    assert outputs[0]["video"]["url"] != outputs[1]["video"]["url"]
    assert first == second


async def test_the_largest_seed_is_answered_and_gives_the_same_video(
    client: httpx.AsyncClient,
) -> None:
    outputs = [(await client.post(RUN, json=request_of(seed=2**63 - 1))).json() for _ in range(2)]
    first, second = [(await client.get(output["video"]["url"])).content for output in outputs]

    assert [output["seed"] for output in outputs] == [2**63 - 1] * 2
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
        ("POST", "/", 405),
        ("GET", "/nothing", 404),
        ("GET", "/files/nothing/here.mp4", 404),
        ("GET", "/files/a%2f..%2fb/c", 404),
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
