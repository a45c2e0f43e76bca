"""The Python client, fal-client, against a server of its own, over HTTPS."""

import ast
import json
from typing import Any

import httpx
import pytest
from client_programs import run_python
from client_servers import ClientServer
from page_samples import PYTHON, printed
from servers import APP, request_of

pytestmark = pytest.mark.clients

HEAD = """
import json
import sys
import time
import fal_client

endpoint = "fal-ai/cosmos-predict-2.5/image-to-video"
arguments = json.loads('''ARGUMENTS''')

def show(*values):
    print(json.dumps(values))
"""


def calls(server: ClientServer, code: str, **fields: Any) -> list[Any]:
    """Run code that has a request in `arguments` and shows values; what it shows."""
    whole = HEAD.replace("ARGUMENTS", json.dumps(request_of(**fields))) + code
    return [json.loads(line) for line in run_python(whole, server.python)]


@pytest.mark.shows("fal-client 1.0.3", "submit", "result", "download")
def test_the_pages_sample_gets_a_video(client_server: ClientServer, pictures: str) -> None:
    *_, last = run_python(printed(PYTHON, pictures), client_server.python)
    result: dict[str, Any] = ast.literal_eval(last)

    https = f"https://{client_server.running.https_host}"
    assert result["video"]["url"].startswith(f"{https}/files/")
    assert isinstance(result["seed"], int)
    video = httpx.get(result["video"]["url"].replace(https, client_server.http))
    assert len(video.content) == result["video"]["file_size"]


@pytest.mark.shows("fal-client 1.0.3", "logs")
def test_the_pages_sample_prints_the_log_while_the_job_runs(
    client_server: ClientServer, pictures: str
) -> None:
    lines = run_python(printed(PYTHON, pictures, "sleep 0.04"), client_server.python)

    assert "Reading the prompt" in lines
    assert any(line.startswith("Step ") and " of 35, 0.04 s a step" in line for line in lines)


def test_a_handle_has_the_urls_of_the_callers_own_host(client_server: ClientServer) -> None:
    code = """
handle = fal_client.submit(endpoint, arguments=arguments)
show(handle.request_id, handle.response_url, handle.status_url, handle.cancel_url)
show(handle.get()["seed"])
show(type(handle.status()).__name__, handle.status().logs)
show(handle.get() == handle.get())
"""
    urls, seed, status, same = calls(client_server, code, seed=7)

    request = f"https://{client_server.running.https_host}/queue/{APP}/requests/{urls[0]}"
    assert urls[1:] == [request, f"{request}/status", f"{request}/cancel"]
    assert seed == [7]
    assert status == ["Completed", None]
    assert same == [True]


def test_events_tell_of_the_queue_the_work_and_the_end(client_server: ClientServer) -> None:
    code = """
first = fal_client.submit(endpoint, arguments=arguments | {"prompt": "sleep 0.5"})
second = fal_client.submit(endpoint, arguments=arguments)
events = list(second.iter_events(with_logs=True))
show(*dict.fromkeys(type(event).__name__ for event in events))
show(*dict.fromkeys(event.position for event in events if isinstance(event, fal_client.Queued)))
show(*(log["message"] for log in events[-1].logs))
show(*sorted(events[-1].logs[0]))
show(*sorted(events[-1].metrics))
"""
    kinds, positions, messages, keys, metrics = calls(client_server, code)

    assert [kinds[0], kinds[-1]] == ["Queued", "Completed"]
    assert positions == sorted(positions, reverse=True)
    assert "Reading the prompt" in messages
    assert keys == ["labels", "level", "message", "source", "timestamp"]
    assert metrics == ["inference_time", "made_with", "stage_seconds", "tier"]


def test_run_gives_the_result_itself(client_server: ClientServer) -> None:
    code = "show(fal_client.run(endpoint, arguments=arguments)['seed'])"

    assert calls(client_server, code, seed=7) == [[7]]


@pytest.mark.shows("fal-client 1.0.3", "validation error")
def test_invalid_input_is_reported_by_field(client_server: ClientServer) -> None:
    code = """
for call in (fal_client.run, fal_client.subscribe):
    try:
        call(endpoint, arguments=arguments)
    except fal_client.FalClientHTTPError as error:
        show(error.status_code, error.message[0]["loc"], error.message[0]["type"])
"""
    wanted = [422, ["body", "num_frames"], "greater_than_equal"]

    assert calls(client_server, code, num_frames=8) == [wanted, wanted]


def test_a_failure_of_the_server_names_its_kind(client_server: ClientServer) -> None:
    code = """
handle = fal_client.submit(endpoint, arguments=arguments)
for event in handle.iter_events(interval=0.02):
    pass
show(event.error_type, event.error)
try:
    handle.get()
except fal_client.FalClientHTTPError as error:
    show(error.status_code, error.error_type)
"""
    status, result = calls(client_server, code, prompt="raise")

    assert status[0] == "internal_error"
    assert result == [500, "internal_error"]


@pytest.mark.shows("fal-client 1.0.3", "cancel")
def test_a_job_that_is_cancelled_ends_as_cancelled(client_server: ClientServer) -> None:
    code = """
handle = fal_client.submit(endpoint, arguments=arguments)
while not isinstance(handle.status(), fal_client.InProgress):
    time.sleep(0.02)
handle.cancel()
for call in (handle.get, handle.cancel):
    try:
        call()
    except fal_client.FalClientHTTPError as error:
        show(error.status_code, error.error_type)
"""
    result, again = calls(client_server, code, prompt="sleep 3600")

    assert result == [499, "client_cancelled"]
    assert again[0] == 400


def test_a_wait_that_is_given_up_cancels_the_job(client_server: ClientServer) -> None:
    code = """
seen = []
try:
    fal_client.subscribe(
        endpoint, arguments=arguments, client_timeout=2, on_enqueue=seen.append
    )
except fal_client.FalClientTimeoutError:
    show("gave up")
try:
    fal_client.result(endpoint, seen[0])
except fal_client.FalClientHTTPError as error:
    show(error.status_code, error.error_type)
"""
    assert calls(client_server, code, prompt="sleep 3600") == [
        ["gave up"],
        [499, "client_cancelled"],
    ]


def test_an_id_that_nobody_has_is_a_404(client_server: ClientServer) -> None:
    code = """
for call in (fal_client.status, fal_client.result, fal_client.cancel):
    try:
        call(endpoint, "00000000-0000-0000-0000-000000000000")
    except fal_client.FalClientHTTPError as error:
        show(error.status_code)
"""
    assert calls(client_server, code) == [[404], [404], [404]]


def test_a_wrong_key_is_told_so(client_server: ClientServer) -> None:
    code = """
client = fal_client.SyncClient(key="me:wrong")
try:
    client.run(endpoint, arguments=arguments)
except fal_client.FalClientHTTPError as error:
    show(error.status_code, error.message)
"""
    assert calls(client_server, code) == [[401, "The key is not one of this server's."]]


def test_the_asynchronous_client_subscribes_too(client_server: ClientServer) -> None:
    code = """
import asyncio
show(asyncio.run(fal_client.subscribe_async(endpoint, arguments=arguments))["seed"])
"""
    assert calls(client_server, code, seed=7) == [[7]]


@pytest.mark.shows("fal-client 1.0.3", "streaming")
def test_a_stream_ends_with_the_output(client_server: ClientServer) -> None:
    code = """
*_, last = fal_client.stream(endpoint, arguments=arguments)
show(last["seed"])
"""
    assert calls(client_server, code, seed=7) == [[7]]


def test_a_run_that_does_not_start_in_time_fails_once(client_server: ClientServer) -> None:
    code = """
first = fal_client.submit(endpoint, arguments=arguments | {"prompt": "sleep 3600"})
while not isinstance(first.status(), fal_client.InProgress):
    time.sleep(0.02)
try:
    fal_client.run(endpoint, arguments=arguments, start_timeout=1.1)
except fal_client.FalClientHTTPError as error:
    headers = error.response_headers
    show(error.status_code, error.error_type, headers["x-fal-request-timeout-type"])
first.cancel()
"""
    assert calls(client_server, code, seed=1001) == [[504, "request_timeout", "user"]]
    assert client_server.jobs_with_seed(1001) == 2
