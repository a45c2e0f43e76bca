"""docs/clients.md is run: each section's blocks in order, as one shell session."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from client_programs import OFFLINE, needed_program, run_shell
from client_servers import KEY, ClientServer
from paths import CLIENTS, SUPPORT
from servers import picture, write_small_checkpoint

pytestmark = pytest.mark.clients

PAGE = (CLIENTS.parent.parent / "docs" / "clients.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
RUNNERS = {
    "bash": "{code}",
    "python": "python - <<'CODE'\n{code}CODE",
    "javascript": "node --input-type=module - <<'CODE'\n{code}CODE",
}


def scripts_of(section: str) -> list[str]:
    """The section's blocks as shell lines, one script for each that prints something.

    Lines that only set variables begin all the scripts after them.
    """
    scripts, variables = [], ""
    for kind, code in BLOCK.findall(SECTIONS[section]):
        shell = RUNNERS[kind].format(code=code)
        if kind == "bash" and all(line.startswith("export ") for line in code.splitlines()):
            variables += code
        else:
            scripts.append(variables + shell)
    return scripts


def javascript_of(section: str) -> str:
    """The section's one block of JavaScript."""
    ((_, code),) = (block for block in BLOCK.findall(SECTIONS[section]) if block[0] == "javascript")
    return str(code)


def adapted(script: str, server: ClientServer, pictures: str) -> str:
    """The script with this server's ports, key and files for those of the page."""
    changes = {
        "http://localhost:8000": server.http,
        "localhost:8443": server.running.https_host,
        "certs/": f"{server.certificates}/",
        "https://example.com": pictures,
        "my-team:a-long-secret": KEY,
    }
    for old, new in changes.items():
        script = script.replace(old, new)
    return script


def test_the_first_lines_start_a_server(tmp_path: Path) -> None:
    weights = write_small_checkpoint(tmp_path / "checkpoint")
    lines = BLOCK.findall(PAGE)[0][1].replace("--weights weights", f"--weights {weights}")
    # Not on the page: ports that are surely free, and a worker that needs no model.
    script = f"cd {tmp_path}\n{lines}".replace("8443", "0").replace(" serve ", " serve --port 0 ")
    environment = {"COSMOS_WORKER": "workers:ScriptedWorker", "COSMOS_DEVICES": "cpu"}
    paths = {"PATH": PATH, "PYTHONPATH": str(SUPPORT)}
    started = subprocess.Popen(
        ["bash", "-eu", "-c", script.replace("cosmos-serve serve", "exec cosmos-serve serve")],
        env={**environment, **paths},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    with started.stdout as printed:
        greeting = next(line for line in printed if line.startswith("cosmos-serve listens on"))
        assert "https://127.0.0.1:" in greeting
        started.terminate()
        assert started.wait(30) == 0


def run_section_part(script: str, server: ClientServer, pictures: str, folder: Path) -> str:
    (folder / "beach.jpg").write_bytes(picture())
    return run_shell(
        adapted(script, server, pictures).replace('"beach.jpg"', f'"{folder}/beach.jpg"'),
        {
            "FAL_KEY": KEY,
            "PATH": PATH,
            "PYTHONPATH": str(OFFLINE),
            "NODE_OPTIONS": f"--require {OFFLINE / 'offline.cjs'}",
        },
    )


def parts(*sections: str) -> list[pytest.ParameterSet]:
    return [
        pytest.param(script, id=f"{section} {number}")
        for section in sections
        for number, script in enumerate(scripts_of(section), 1)
    ]


@pytest.mark.parametrize("script", parts("curl", "Python"))
def test_the_lines_of_the_shell_and_python_get_a_video(
    script: str, client_server: ClientServer, pictures: str, tmp_path: Path
) -> None:
    assert "/files/" in run_section_part(script, client_server, pictures, tmp_path)


@pytest.mark.parametrize("script", parts("JavaScript in Node"))
def test_the_lines_of_node_get_a_video_or_a_files_url(
    script: str, client_server: ClientServer, pictures: str, tmp_path: Path
) -> None:
    needed_program("node")
    printed = run_section_part(script, client_server, pictures, tmp_path)
    assert f"{client_server.http}/files/" in printed


@pytest.mark.shows("@ai-sdk/fal 2.0.59", "submit", "result", "download")
@pytest.mark.parametrize("script", parts("Vercel AI SDK"))
def test_the_lines_of_the_ai_sdk_get_a_video(
    script: str, client_server: ClientServer, pictures: str, tmp_path: Path
) -> None:
    needed_program("node")
    printed = run_section_part(script, client_server, pictures, tmp_path)
    assert printed.splitlines()[-1] == "video/mp4 65536"
