"""The reverse proxies of docs/reverse-proxies.md, each run with the configuration of that page."""

import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trustme
from paths import DOCS
from servers import APP, ENDPOINT, RunningServer, request_of, start_server

pytestmark = pytest.mark.clients

NAME = "videos.example.com"
KEY = "me:s3cret"
AUTHORITY = trustme.CA()
UPLOAD = {"file_name": "a.png", "content_type": "image/png"}
PAGE = (DOCS / "reverse-proxies.md").read_text()

NGINX = """
daemon off;
pid FOLDER/pid;
error_log stderr;
user root;
events {}
http {
    access_log off;
    client_body_temp_path FOLDER/body;
    proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi;
    uwsgi_temp_path FOLDER/uwsgi;
    scgi_temp_path FOLDER/scgi;
    include FOLDER/site.conf;
}
"""
CADDY = """
{
    admin off
    auto_https disable_redirects
}
"""
TRAEFIK = """
tls:
  certificates:
    - certFile: FOLDER/cert.pem
      keyFile: FOLDER/key.pem
"""


def blocks(language: str) -> list[str]:
    """The blocks of the page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def changed(text: str, *changes: tuple[str, str]) -> str:
    """The text with each of these replaced, once."""
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def nginx(folder: Path, port: int, server: str) -> list[str]:
    (folder / "nginx.conf").write_text(NGINX.replace("FOLDER", str(folder)))
    site = changed(
        blocks("nginx")[0],
        ("127.0.0.1:8000", server),
        ("listen 443", f"listen 127.0.0.1:{port}"),
        (f"/etc/ssl/{NAME}.pem", f"{folder}/cert.pem"),
        (f"/etc/ssl/{NAME}.key", f"{folder}/key.pem"),
    )
    (folder / "site.conf").write_text(site)
    return ["-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, port: int, server: str) -> list[str]:
    site = changed(
        blocks("caddyfile")[0],
        ("127.0.0.1:8000", server),
        (f"{NAME} {{", f"https://{NAME}:{port} {{\n\ttls {folder}/cert.pem {folder}/key.pem"),
    )
    (folder / "Caddyfile").write_text(CADDY + site)
    return ["run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def traefik(folder: Path, port: int, server: str) -> list[str]:
    static, dynamic = blocks("yaml")
    routes = changed(dynamic, ("127.0.0.1:8000", server))
    (folder / "routes.yaml").write_text(routes + TRAEFIK.replace("FOLDER", str(folder)))
    (folder / "traefik.yaml").write_text(
        changed(static, (":443", f"127.0.0.1:{port}"))
        + f"providers:\n  file:\n    filename: {folder}/routes.yaml\n"
    )
    return [f"--configFile={folder}/traefik.yaml"]


CONFIGURED: dict[str, Callable[[Path, int, str], list[str]]] = {
    "nginx": nginx,
    "caddy": caddy,
    "traefik": traefik,
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    running = start_server(folder, COSMOS_KEY=KEY, COSMOS_FORWARDED_ALLOW_IPS="127.0.0.1")
    yield running
    assert running.end() == 0


@contextmanager
def proxied(name: str, folder: Path, server: RunningServer) -> Iterator[httpx.Client]:
    """A client that speaks to the proxy by the public name, with a key."""
    program = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
    if program is None:
        pytest.skip(f"{name} is not installed")
    certificate = AUTHORITY.issue_cert(NAME)
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    trusting = ssl.create_default_context()
    AUTHORITY.configure_trust(trusting)
    port = free_port()
    options = CONFIGURED[name](folder, port, server.http.removeprefix("http://"))
    environment = {"HOME": str(folder), "PATH": os.environ["PATH"]}
    with subprocess.Popen([program, *options], env=environment) as process:
        try:
            with httpx.Client(
                base_url=f"https://127.0.0.1:{port}",
                headers={"host": NAME, "authorization": f"Key {KEY}"},
                verify=trusting,
                timeout=30,
            ) as client:
                client.event_hooks["request"].append(by_name)
                while not serves(client):
                    assert process.poll() is None, f"{name} ended"
                    time.sleep(0.02)
                yield client
        finally:
            process.terminate()


def by_name(request: httpx.Request) -> None:
    """Look nothing up, but shake hands as with the public name."""
    request.extensions["sni_hostname"] = NAME


def serves(client: httpx.Client) -> bool:
    """Whether the proxy listens, and has read all of its configuration."""
    try:
        return client.get("/health/live").is_success
    except httpx.TransportError:
        return False


def path_of(url: str) -> str:
    """The path of a URL that the server gave, on the public name."""
    assert url.startswith(f"https://{NAME}/"), url
    return url.removeprefix(f"https://{NAME}")


@pytest.fixture(params=CONFIGURED)
def client(
    request: pytest.FixtureRequest, tmp_path: Path, server: RunningServer
) -> Iterator[httpx.Client]:
    with proxied(request.param, tmp_path, server) as client:
        yield client


def test_bodies_of_any_size_pass_both_ways(client: httpx.Client) -> None:
    body = os.urandom(1024) * 30_000

    answer = client.post("/files/upload", content=body)

    assert answer.status_code == 200, answer.text
    assert client.get(path_of(answer.json()["access_url"])).content == body


def test_urls_begin_as_the_caller_s_did_whatever_it_says(client: httpx.Client) -> None:
    forged = {
        "x-forwarded-host": "evil.example",
        "x-forwarded-prefix": "/evil",
        "x-forwarded-proto": "http",
    }

    answer = client.post(f"/queue/{ENDPOINT}", json=request_of(), headers=forged)

    assert path_of(answer.json()["status_url"]).startswith(f"/queue/{APP}/requests/")


def test_events_come_when_they_are_sent(client: httpx.Client) -> None:
    job = client.post(f"/queue/{ENDPOINT}", json=request_of("wait 1")).json()
    with client.stream("GET", path_of(job["status_url"]) + "/stream") as stream:
        lines = stream.iter_lines()
        # The job goes on until it is cancelled, and so does the stream.
        while "IN_PROGRESS" not in next(lines):
            pass
        client.put(path_of(job["cancel_url"]))

        assert "COMPLETED" in "".join(lines)


@pytest.mark.slow
def test_no_request_meets_a_connection_that_is_being_closed(client: httpx.Client) -> None:
    """Pauses end about when uvicorn's own keep-alive of five seconds would."""
    at_once, rounds = 48, 10

    def post(number: int) -> list[int]:
        statuses = []
        for _ in range(rounds):
            # Its own connection to the proxy is another each time.
            own = {"connection": "close"}
            answer = client.post("/rest/storage/upload/initiate", json=UPLOAD, headers=own)
            statuses.append(answer.status_code)
            time.sleep(4.98 + number / at_once / 50)
        return statuses

    with ThreadPoolExecutor(at_once) as threads:
        statuses = Counter(status for each in threads.map(post, range(at_once)) for status in each)

    assert statuses == {200: at_once * rounds}
