"""docs/protocol.md names a test for every case, or the reason why there is none."""

import re

import client_table
import pytest
import test_clients_ai_sdk
import test_clients_browser
import test_clients_curl
import test_clients_docs
import test_clients_endpoints
import test_clients_fal_client
import test_clients_hosts
import test_clients_javascript
import test_clients_mcp
import test_clients_openai
from paths import DOCS, TESTS

NUM_CASES = 96
TEST_FILES = {path.name: path for path in TESTS.rglob("test_*.py")}
ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \|$", re.MULTILINE)
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
CASES = ROW.findall((DOCS / "protocol.md").read_text())
MODULES = (
    test_clients_ai_sdk,
    test_clients_browser,
    test_clients_curl,
    test_clients_docs,
    test_clients_endpoints,
    test_clients_fal_client,
    test_clients_hosts,
    test_clients_javascript,
    test_clients_mcp,
    test_clients_openai,
)


def test_every_case_is_there_once() -> None:
    assert [int(number) for number, _, _ in CASES] == list(range(1, NUM_CASES + 1))


@pytest.mark.parametrize(("number", "shown"), [(number, shown) for number, _, shown in CASES])
def test_every_test_that_a_case_names_exists(number: str, shown: str) -> None:
    named = NAMED.findall(shown)
    reasons = NAMED.sub("", shown).replace("<br>", "").strip()

    assert named or reasons, f"case {number} has neither a test nor a reason"
    for file, test in named:
        assert f"def {test}(" in TEST_FILES[file].read_text(), f"{file} has no {test}"


def test_the_table_of_clients_shows_all_that_the_tests_can_show() -> None:
    """`make client-table` fills a cell only if its tests passed, so none is missing."""
    marks = (
        mark
        for module in MODULES
        for each in vars(module).values()
        for mark in getattr(each, "pytestmark", [])
        if isinstance(mark, pytest.Mark) and mark.name == "shows"
    )

    wanted = client_table.table_of(client_table.cells_of(marks))
    assert (DOCS / "client-table.md").read_text() == wanted
