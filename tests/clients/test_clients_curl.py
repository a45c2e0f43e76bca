"""curl against a server of its own: the endpoint's page, line by line."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from client_programs import needed_program, run_program, run_shell
from client_servers import KEY, ClientServer
from page_samples import CURL, printed
from servers import ENDPOINT, picture, request_of

pytestmark = pytest.mark.clients


@pytest.fixture(autouse=True)
def curl() -> None:
    needed_program("curl")


def assert_video(output: str) -> None:
    answer = json.loads(output)
    video = httpx.get(answer["video"]["url"])
    assert len(video.content) == answer["video"]["file_size"]
    assert video.headers["content-type"] == "video/mp4"
    assert isinstance(answer["seed"], int)


def test_the_pages_sample_gets_a_video(client_server: ClientServer, pictures: str) -> None:
    command = printed(CURL, pictures).replace("https://fal.run", client_server.http)

    assert_video(run_shell(command, {"FAL_KEY": KEY}))


def test_the_pages_sample_with_fals_own_host_gets_a_video(
    client_server: ClientServer, pictures: str, tmp_path: Path
) -> None:
    """curl is told where fal.run is; host, path and certificate are as at fal."""
    port = client_server.running.https_host.rpartition(":")[2]
    (tmp_path / ".curlrc").write_text(
        f'connect-to = "::127.0.0.1:{port}"\ncacert = "{client_server.certificates / "ca.pem"}"\n'
    )

    output = run_shell(printed(CURL, pictures), {"FAL_KEY": KEY, "CURL_HOME": str(tmp_path)})

    url = json.loads(output)["video"]["url"]
    assert url.startswith("https://")


def ask(server: ClientServer, path: str, *options: str, wish: Any = None) -> list[str]:
    """Ask for a path, or for another URL; the lines of the answer."""
    url = path if path.startswith("http") else f"{server.http}{path}"
    sent = [] if wish is None else ["--json", json.dumps(wish)]
    key = ["--header", f"Authorization: Key {KEY}"]
    return run_program(["curl", "--silent", "--show-error", *key, *sent, *options, url], {})


def submit(server: ClientServer, prompt: str) -> Any:
    (answer,) = ask(server, f"/queue/{ENDPOINT}", wish=request_of(prompt, seed=7))
    return json.loads(answer)


@pytest.mark.shows("curl", "submit", "logs", "result", "download", "streaming")
def test_a_job_is_followed_to_its_video(client_server: ClientServer, tmp_path: Path) -> None:
    urls = submit(client_server, "sleep 0.1")
    *_, last, _ = ask(client_server, f"{urls['status_url']}/stream?logs=1", "--no-buffer")
    assert json.loads(last.removeprefix("data: "))["status"] == "COMPLETED"

    (status,) = ask(client_server, f"{urls['status_url']}?logs=1")
    assert "Reading the prompt" in [log["message"] for log in json.loads(status)["logs"]]
    (result,) = ask(client_server, urls["response_url"])
    video = json.loads(result)["video"]
    run_program(["curl", "--silent", "--output", str(tmp_path / "video"), video["url"]], {})
    assert (tmp_path / "video").stat().st_size == video["file_size"]


@pytest.mark.shows("curl", "cancel")
def test_a_job_is_cancelled(client_server: ClientServer) -> None:
    urls = submit(client_server, "sleep 3600")
    with_code = ["--write-out", "\n%{http_code}"]

    answer = ask(client_server, urls["cancel_url"], "--request", "PUT", *with_code)
    assert answer == ['{"status":"CANCELLATION_REQUESTED"}', "202"]
    ask(client_server, f"{urls['status_url']}/stream")
    assert ask(client_server, urls["response_url"], *with_code)[-1] == "499"


@pytest.mark.shows("curl", "validation error")
def test_json_is_read_though_curl_calls_it_a_form(client_server: ClientServer) -> None:
    (answer,) = ask(client_server, f"/run/{ENDPOINT}", "--data", '{"prompt": "a red car"}')

    (item,) = json.loads(answer)["detail"]
    assert (item["type"], item["loc"]) == ("missing", ["body", "image_url"])


@pytest.mark.shows("curl", "upload")
def test_a_file_is_uploaded(client_server: ClientServer, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(picture())
    wish = {"file_name": "photo of the sea.png", "content_type": "image/png"}
    (answer,) = ask(client_server, "/rest/storage/upload/initiate", wish=wish)
    urls = json.loads(answer)
    put = ["--upload-file", str(file), "--header", "content-type: image/png"]
    run_program(["curl", "--silent", "--fail", *put, urls["upload_url"]], {})

    wish = request_of(image_url=urls["file_url"], seed=7)
    (answer,) = ask(client_server, f"/run/{ENDPOINT}", wish=wish)
    assert json.loads(answer)["seed"] == 7


@pytest.mark.shows("curl", "streaming")
def test_a_run_is_streamed(client_server: ClientServer) -> None:
    *_, last, _ = ask(client_server, f"/run/{ENDPOINT}/stream", wish=request_of(seed=7))

    assert json.loads(last.removeprefix("data: "))["seed"] == 7
