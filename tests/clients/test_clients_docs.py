"""docs/clients.md is run as it stands: its blocks in order, in terminals beside its server."""

import re
from collections.abc import Iterator

import pytest
from client_programs import needed_program, not_here
from page_blocks import Block, blocks_of
from paths import DOCS, SUPPORT
from terminals import Desk, Terminal, desk_in
from test_clients_openai import LITELLM
from workers import BYTES

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]

PAGE = DOCS / "clients.md"
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S))
SERVER, CLIENT = blocks_of(PAGE)[:2]
FILES = "http://localhost:8000/files/"


def parts(*sections: str) -> list[pytest.ParameterSet]:
    """The blocks of the sections that are run here."""
    return [
        pytest.param(section, block, id=f"{section} {number}")
        for section in sections
        for number, block in enumerate(blocks_of(PAGE, SECTIONS[section]), 1)
        if block.is_command and block.reason is None
    ]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A clone in which the page's server runs. Its worker needs no model."""
    scripted = {"COSMOS_WORKER": "workers:ScriptedWorker", "COSMOS_DEVICES": "cpu"}
    with desk_in(tmp_path_factory.mktemp("desk"), PYTHONPATH=str(SUPPORT), **scripted) as desk:
        desk.serve(desk.open(), SERVER)
        yield desk


@pytest.fixture(scope="module")
def terminals(desk: Desk) -> dict[str, Terminal]:
    """A client's terminal for each section, opened when it is first used."""
    return {}


def pasted(desk: Desk, terminals: dict[str, Terminal], section: str, block: Block) -> str:
    """What a block prints, pasted after those of its section before it."""
    if section not in terminals:
        terminals[section] = desk.open()
        terminals[section].paste(CLIENT.shell)
    return terminals[section].paste(block.shell)


def only_sets_variables(block: Block) -> bool:
    return all(line.startswith("export ") for line in block.code.splitlines())


def test_the_first_lines_start_a_server(desk: Desk) -> None:
    terminal = desk.open()
    ready = "curl --silent --fail --cacert certs/ca.pem https://localhost:8443/health/ready"
    assert '"ready"' in terminal.paste(ready)


@pytest.mark.parametrize(("section", "block"), parts("curl", "Python", "MCP"))
def test_the_lines_of_the_shell_and_python_get_a_video(
    desk: Desk, terminals: dict[str, Terminal], section: str, block: Block
) -> None:
    printed = pasted(desk, terminals, section, block)
    assert only_sets_variables(block) or "/files/" in printed


@pytest.mark.parametrize(("section", "block"), parts("JavaScript in Node"))
def test_the_lines_of_node_get_a_video_or_a_files_url(
    desk: Desk, terminals: dict[str, Terminal], section: str, block: Block
) -> None:
    needed_program("node")
    printed = pasted(desk, terminals, section, block)
    assert only_sets_variables(block) or FILES in printed


@pytest.mark.shows("@ai-sdk/fal 2.0.59", "submit", "result", "download")
@pytest.mark.parametrize(("section", "block"), parts("Vercel AI SDK"))
def test_the_lines_of_the_ai_sdk_get_a_video(
    desk: Desk, terminals: dict[str, Terminal], section: str, block: Block
) -> None:
    needed_program("node")
    printed = pasted(desk, terminals, section, block)
    assert printed.splitlines()[-1] == "video/mp4 65536"


@pytest.mark.parametrize(("section", "block"), parts("OpenAI SDK", "LiteLLM"))
def test_the_lines_of_openais_api_get_a_video(
    desk: Desk, terminals: dict[str, Terminal], section: str, block: Block
) -> None:
    if section == "LiteLLM" and not LITELLM.exists():
        not_here("LiteLLM is not installed: `make test-clients` does it.")
    if section == "LiteLLM" and section not in terminals:
        terminals[section] = desk.open()
        terminals[section].paste(CLIENT.shell)
        terminals[section].paste(f"source {LITELLM.parent}/activate")
    printed = pasted(desk, terminals, section, block)
    assert only_sets_variables(block) or "-to-video completed" in printed
    assert only_sets_variables(block) or (desk.clone / "video.mp4").stat().st_size == BYTES


def test_a_dashboard_reads_what_was_made(desk: Desk, terminals: dict[str, Terminal]) -> None:
    video = blocks_of(PAGE, SECTIONS["Python"])[:2]
    made = [pasted(desk, terminals, "Python", block) for block in video][-1]
    key, program = blocks_of(PAGE, SECTIONS["Dashboards for fal's platform API"])
    section = "a dashboard"
    assert pasted(desk, terminals, section, key) == ""
    printed = pasted(desk, terminals, section, program)
    (url,) = re.findall(r"http\S+/video.mp4", made)
    assert url.partition("/files/")[2] in printed
    assert "my-team fal-ai/cosmos-predict-2.5/image-to-video" in printed
    assert "p95_duration" in printed


@pytest.mark.parametrize("section", ["Python", "JavaScript in Node"])
def test_the_lines_that_follow_a_job_print_its_log_once(
    desk: Desk, terminals: dict[str, Terminal], section: str
) -> None:
    languages = ("python", "javascript")
    blocks = [each for each in blocks_of(PAGE, SECTIONS[section]) if each.language in languages]
    lines = pasted(desk, terminals, section, blocks[0]).splitlines()
    begun = [line for line in lines if "The script begins." in line]
    assert begun == ["The script begins."]
