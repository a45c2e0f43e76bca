"""Which client was seen to do what: `make client-table` writes docs/client-table.md.

A test says what it shows with `@pytest.mark.shows(client, capability, ...)`. A cell of the table
is filled if every test that shows it passed.
"""

from collections.abc import Generator, Iterable
from pathlib import Path

import pytest

OPTION = "--client-table"
CLIENTS = (
    "curl",
    "fal-client 1.0.3",
    "fal-client 0.5.9",
    "fal 1.83.0",
    "@fal-ai/client 1.10.1 in Node",
    "@fal-ai/client 1.10.1 in Chromium",
    "@ai-sdk/fal 2.0.59",
    "huggingface_hub 2.4.0",
    "openai 3.57.0",
    "litellm 1.110.2",
    "mcp 2.3.0",
)
CAPABILITIES = (
    "submit",
    "logs",
    "result",
    "download",
    "cancel",
    "validation error",
    "upload",
    "streaming",
)
Cell = tuple[str, str]

HEAD = f"""# What each client was seen to do

Written by `make client-table` from a run of `tests/test_clients_*.py` with the real clients, each
pointed here as docs/clients.md says. What is empty is something that the client has no call for.
Uploads by fal-client and the fal SDK, and all that fal-client 0.5.9 and huggingface_hub do, need
fal's names to lead to the server.

| client | {" | ".join(CAPABILITIES)} |
|---|{":-:|" * len(CAPABILITIES)}
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, type=Path, help="write what the clients did to this file")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption(OPTION)
    if path is not None:
        config.pluginmanager.register(Recorder(path))


class Recorder:
    """Notes the outcome of every test that shows something, and writes the table at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shown: dict[Cell, bool] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when == "call" or not report.passed:
            for cell in cells_of(item.iter_markers("shows")):
                self._shown[cell] = self._shown.get(cell, True) and report.passed
        return report

    def pytest_sessionfinish(self) -> None:
        passed = {cell for cell, has_passed in self._shown.items() if has_passed}
        self._path.write_text(table_of(passed))


def cells_of(marks: Iterable[pytest.Mark]) -> set[Cell]:
    """The cells that these marks fill."""
    return {(mark.args[0], capability) for mark in marks for capability in mark.args[1:]}


def table_of(cells: set[Cell]) -> str:
    """The page, with these cells filled."""
    unknown = {cell for cell in cells if cell[0] not in CLIENTS or cell[1] not in CAPABILITIES}
    assert not unknown, f"no row or column for {unknown}"
    rows = (
        f"| {client} | "
        + " | ".join("yes" if (client, each) in cells else "" for each in CAPABILITIES)
        + " |\n"
        for client in CLIENTS
    )
    return HEAD + "".join(rows)
