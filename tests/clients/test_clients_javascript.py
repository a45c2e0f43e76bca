"""The JavaScript client, @fal-ai/client, in Node, pointed here in each of three ways."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from client_programs import run_node, run_node_file
from client_servers import ClientServer
from page_samples import JAVASCRIPT, printed
from servers import request_of

pytestmark = pytest.mark.clients

PROXY = """
fal.config({ proxyUrl: { url: "SERVER/api/fal/proxy", when: "always" } });
"""


@pytest.fixture(params=["proxy", "middleware", "fetch"])
def way(request: pytest.FixtureRequest) -> str:
    """How the client is pointed here."""
    return str(request.param)


def calls(server: ClientServer, program: str, way: str, **given: Any) -> list[Any]:
    return run_node_file(program, server.node, way=way, **given)


@pytest.mark.shows("@fal-ai/client 1.10.1 in Node", "submit", "logs", "result")
def test_the_pages_sample_gets_a_video(client_server: ClientServer, pictures: str) -> None:
    imported, rest = printed(JAVASCRIPT, pictures, "sleep 0.04").split("\n", 1)
    code = imported + PROXY.replace("SERVER", client_server.http) + rest

    lines = run_node(code, client_server.node)

    # forEach hands console.log the number and the list of the messages, too.
    assert any(line.startswith("Reading the prompt ") for line in lines)
    assert any(line.startswith("Step ") for line in lines)
    assert any("content_type: 'video/mp4'" in line for line in lines)
    assert len(lines[-1]) == 36


@pytest.mark.shows("@fal-ai/client 1.10.1 in Node", "submit", "logs", "result", "download")
@pytest.mark.parametrize("mode", ["polling", "streaming"])
def test_subscribe_follows_a_job_and_gets_its_video(
    client_server: ClientServer, way: str, mode: str
) -> None:
    asked = request_of("sleep 0.1", seed=7)
    statuses, logs, output, ids = calls(client_server, "subscribe.mjs", way, mode=mode, input=asked)

    assert statuses[-2:] == ["IN_PROGRESS", "COMPLETED"]
    # The stream sends each line once, and the client puts them together.
    assert [line for line in logs if line.startswith("Step ")] != []
    assert len(logs) == len(set(logs))
    assert output == [7, 65536, 65536, "video/mp4"]
    assert ids[0] == ids[1] != ""


@pytest.mark.shows("@fal-ai/client 1.10.1 in Node", "submit", "cancel")
def test_a_job_is_submitted_asked_for_and_cancelled(client_server: ClientServer, way: str) -> None:
    submitted, status, early, *end = calls(
        client_server, "queue.mjs", way, input=request_of("sleep 3600")
    )

    assert submitted[:2] == ["IN_QUEUE", 0]
    assert {"response_url", "status_url", "cancel_url", "request_id"} <= set(submitted[2])
    assert status[0] in ("IN_QUEUE", "IN_PROGRESS")
    assert status[1]
    assert early == ["ApiError", 400, "Request is still in progress", None]
    assert end == [
        ["COMPLETED"],
        ["ApiError", 499, "Request cancelled by the client.", "client_cancelled"],
        [400],
    ]


@pytest.mark.shows("@fal-ai/client 1.10.1 in Node", "validation error")
def test_invalid_input_is_reported_by_field(client_server: ClientServer, way: str) -> None:
    asked = request_of(num_frames=8)

    assert calls(client_server, "errors.mjs", way, input=asked) == [
        [422, "greater_than_equal"],
        [422, "greater_than_equal"],
        [404],
    ]


def test_a_wait_that_is_given_up_cancels_the_job(client_server: ClientServer, way: str) -> None:
    gave_up, became = calls(client_server, "timeout.mjs", way, input=request_of("sleep 3600"))

    assert "timed out" in gave_up[0]
    assert became == ["client_cancelled"]


@pytest.mark.shows("@fal-ai/client 1.10.1 in Node", "upload")
@pytest.mark.parametrize("size", [10, 91 * 2**20], ids=["10 bytes", "91 MiB"])
def test_an_upload_can_be_fetched_without_a_key(
    client_server: ClientServer, way: str, size: int
) -> None:
    (url,), answer, is_same = calls(client_server, "upload.mjs", way, size=size)

    assert url.startswith(f"{client_server.http}/files/")
    assert url.isascii() and " " not in url and '"' not in url
    assert answer == [200, "image/png"]
    assert is_same == [True]


@pytest.mark.shows("@fal-ai/client 1.10.1 in Node", "upload")
def test_a_blob_is_uploaded_and_used(client_server: ClientServer, way: str) -> None:
    assert calls(client_server, "blob.mjs", way, input=request_of(seed=7)) == [[7]]


@pytest.mark.shows("@fal-ai/client 1.10.1 in Node", "streaming")
def test_a_stream_ends_with_the_output(client_server: ClientServer, way: str) -> None:
    ((count, last),) = calls(client_server, "stream.mjs", way, input=request_of(seed=7))

    assert count >= 1
    assert last["seed"] == 7


def test_a_run_that_does_not_start_in_time_fails_once(client_server: ClientServer) -> None:
    first = {"call": "submit", "input": request_of("sleep 2", seed=1003)}
    with ThreadPoolExecutor() as others:
        running = others.submit(calls, client_server, "retries.mjs", "fetch", **first)
        while client_server.jobs_with_seed(1003) == 0:
            time.sleep(0.02)
        late = {"call": "run", "input": request_of(seed=1004), "startTimeout": 1.1}
        error = calls(client_server, "retries.mjs", "fetch", **late)
        assert running.result() == [[1003]]

    assert error == [[504, "request_timeout", "user"]]
    assert client_server.jobs_with_seed(1004) == 1


def test_a_wrong_key_is_told_so(client_server: ClientServer, way: str) -> None:
    wrong = {"credentials": "me:wrong"}

    assert calls(client_server, "errors.mjs", way, input=request_of(), config=wrong) == [
        [401],
        [401],
        [401],
    ]
