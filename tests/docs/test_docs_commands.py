"""What people paste from the pages runs as it stands, from a fresh clone."""

import re
import shlex
from pathlib import Path

import pytest
from page_blocks import PAGES, Block, blocks_of
from paths import DOCS, ROOT
from terminals import desk_in
from typer.core import TyperGroup
from typer.main import get_command

from server.cli.main import app

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SESSIONS = ("README.md", "api.md", "tls.md")
"""The pages whose blocks are run here, in their order."""

OTHERWISE_RUN = {"clients.md": "tests/clients/test_clients_docs.py"}
"""The pages whose blocks another test runs."""

NOT_RUN = 27
"""Blocks that no test can run; each says why."""


def is_run(block: Block) -> bool:
    runs_page = block.page in SESSIONS or block.page in OTHERWISE_RUN
    return block.reason is None and (block.run_by is not None or runs_page)


def test_every_block_that_people_paste_is_run_or_says_why_not() -> None:
    commands = [block for block in BLOCKS if block.is_command]
    neither = [block for block in commands if not is_run(block) and block.reason is None]

    assert neither == []
    assert sum(block.reason is not None for block in commands) == NOT_RUN
    for test in {*OTHERWISE_RUN.values(), *filter(None, (block.run_by for block in BLOCKS))}:
        assert (ROOT / test).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_stands_in_blocks_that_name_their_language(page: Path) -> None:
    assert all(block.language for block in blocks_of(page))
    outside = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^|\n\n)(    \S.*)", outside)
    assert indented == [], "a block without a fence is run by no test"


def test_no_page_calls_a_checkpoint_as_the_package_is_called() -> None:
    """`--weights weights` would name the folder of the package."""
    texts = [page.read_text() for page in PAGES]
    texts += [path.read_text() for path in (ROOT / "server" / "cli").glob("*.py")]
    assert [text for text in texts if re.search(r"--weights weights\b", text)] == []


_NAMED = re.compile(r"(?:^|`|\$\()cosmos-serve ((?:\\\n|(?<=\w)\||[^`\\\n#|&;)])+)", re.MULTILINE)
NAMED = [
    (page.name, command.replace("\\\n", " "))
    for page in PAGES
    for command in dict.fromkeys(_NAMED.findall(page.read_text()))
]
"""The command lines of this program, in the texts of the pages and in their blocks."""


@pytest.mark.parametrize(("page", "command"), NAMED)
def test_every_command_that_a_page_names_can_be_called_so(page: str, command: str) -> None:
    words, node = shlex.split(command), get_command(app)
    while isinstance(node, TyperGroup) and words and not words[0].startswith("-"):
        # `queue pause|resume` names two.
        *others, name = words.pop(0).split("|")
        assert {*others, name} <= node.commands.keys(), page
        node = node.commands[name]
    options = {name: each for each in node.params for name in (*each.opts, *each.secondary_opts)}
    given = 0
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            given += 1
            continue
        name, _, value = word.partition("=")
        assert name in {*options, "--help"}, page
        if name in options and not getattr(options[name], "is_flag", False) and not value:
            words[:1] = []
    assert given <= sum(each.param_type_name == "argument" for each in node.params), page


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", SESSIONS)
def test_the_commands_of_a_page_run_as_they_stand(page: str, tmp_path: Path) -> None:
    path = ROOT / page if page == "README.md" else DOCS / page
    with desk_in(tmp_path, COSMOS_DRAIN_SECONDS="0") as desk:
        terminal = desk.open()
        for block in blocks_of(path):
            if not block.is_command or not is_run(block):
                continue
            if block.serves:
                desk.serve(terminal, block)
                terminal = desk.open()
            else:
                terminal.paste(block.shell)
        videos = [each for each in desk.clone.rglob("*.mp4") if DOCS.name not in each.parts]
        made = {each.name for each in videos if each.stat().st_size > 10_000}
        wanted = {
            "README.md": {"right.mp4", "up.mp4", "video.mp4"},
            "api.md": {"sync.mp4", "video.mp4"},
            "tls.md": set(),
        }
        assert made == wanted[page]
