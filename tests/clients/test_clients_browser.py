"""The JavaScript client in a page of another origin, in headless Chromium."""

import queue
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from client_programs import needed_program, run_program
from client_servers import KEY, ClientServer, serving_clients
from client_table import CAPABILITIES
from page_blocks import blocks_of
from paths import CLIENTS, DOCS

pytestmark = [pytest.mark.clients, pytest.mark.slow]

HEAD = """<!doctype html><link rel="icon" href="data:,"><script>
const lines = [];
console.log = (...values) => lines.push(values.map((value) =>
  typeof value === "string" ? value : JSON.stringify(value)).join(" "));
const report = () => fetch("/said", { method: "POST", body: lines.join("\\n") });
addEventListener("unhandledrejection", ({ reason }) => { console.log(`${reason}`); report(); });
addEventListener("error", ({ message }) => { console.log(message); report(); });
</script><script type="module" src="/page.js"></script>
"""
LONGEST_S = 60.0


def javascript_of_the_page() -> str:
    """The block of docs/clients.md that is for browsers."""
    (block,) = (each for each in blocks_of(DOCS / "clients.md") if "createFalClient" in each.code)
    return block.code


def adapted(script: str, server: ClientServer, pictures: str) -> str:
    """The script with this server's port, key and picture for those of the page."""
    changes = {
        "http://localhost:8000": server.http,
        "https://example.com": pictures,
        "my-team:a-long-secret": KEY,
    }
    for old, new in changes.items():
        script = script.replace(old, new)
    return script


@dataclass
class Site:
    """Serves one page with one script, and keeps what the script says at its end."""

    script: str = ""
    said: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    origin: str = ""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_script = self.path == "/page.js"
            body = (site.script if is_script else HEAD).encode()
            self.send_response(200)
            self.send_header("content-type", "text/javascript" if is_script else "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            site.said.put(self.rfile.read(int(self.headers["content-length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        site.origin = f"http://localhost:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield site
        server.shutdown()


@pytest.fixture(scope="module")
def open_server(
    site: Site, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClientServer]:
    """A server that the site's pages may use."""
    folder = tmp_path_factory.mktemp("open-server")
    with serving_clients(folder, certificates, COSMOS_CORS_ORIGINS=site.origin) as server:
        yield server


def run_in_page(code: str, site: Site, folder: Path) -> list[str]:
    """Run a module in a page of the site's; what it logs."""
    chromium = needed_program("chromium", "chromium-browser", "google-chrome")
    needed_program("node")
    bundler = [str(CLIENTS / "node_modules" / ".bin" / "esbuild"), "--bundle", "--format=esm"]
    site.script = "\n".join(run_program(bundler, {}, f"{code}\nreport();"))
    browser = subprocess.Popen(
        [
            chromium,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
            f"--user-data-dir={folder}",
            site.origin,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return site.said.get(timeout=LONGEST_S).splitlines()
    finally:
        browser.terminate()
        browser.wait(LONGEST_S)


@pytest.mark.shows("@fal-ai/client 1.10.1 in Chromium", "submit", "result")
def test_the_lines_of_the_page_get_a_video(
    site: Site, open_server: ClientServer, pictures: str, tmp_path: Path
) -> None:
    code = javascript_of_the_page()

    output, request_id = run_in_page(adapted(code, open_server, pictures), site, tmp_path)

    assert f"{open_server.http}/files/" in output
    assert len(request_id) == 36


@pytest.mark.shows("@fal-ai/client 1.10.1 in Chromium", *CAPABILITIES)
def test_a_page_uploads_streams_fails_and_cancels(
    site: Site, open_server: ClientServer, tmp_path: Path
) -> None:
    code = adapted((CLIENTS / "browser.mjs").read_text(), open_server, "")

    assert run_in_page(code, site, tmp_path) == [
        "uploaded true",
        "seed 7",
        "video 65536",
        "wrong 422 1 true",
        "cancelled 499",
    ]


def test_a_page_of_an_origin_that_is_not_listed_gets_nothing(
    site: Site, client_server: ClientServer, pictures: str, tmp_path: Path
) -> None:
    code = javascript_of_the_page()

    assert run_in_page(adapted(code, client_server, pictures), site, tmp_path) == [
        "Uncaught TypeError: Failed to fetch"
    ]
