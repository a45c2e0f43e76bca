"""curl against a server of its own: the endpoint's page, line by line."""

import json
from pathlib import Path

import httpx
import pytest
from client_programs import needed_program, run_shell
from client_servers import KEY, ClientServer
from page_samples import CURL, printed

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
