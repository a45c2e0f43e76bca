"""docs/reliability.md and docs/security.md: every promise names a test that is there."""

import json
import re
from pathlib import Path

import pytest
from paths import DOCS, TESTS

from benchmarks.chaos_report import CLUSTER, ONE_SERVER, PAGE, Kind, page_text
from benchmarks.chaos_run import begin, save

TEST_FILES = {path.name: path for path in TESTS.rglob("test_*.py")}
ROW = re.compile(r"^\| (.+) \| (.*`test_\w+\.py::.+) \|$", re.MULTILINE)
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
PAGES = ("reliability.md", "security.md")
PROMISES = [row for page in PAGES for row in ROW.findall((DOCS / page).read_text())]


def test_there_are_promises() -> None:
    assert len(PROMISES) > 50


@pytest.mark.parametrize(("promise", "held_by"), PROMISES)
def test_every_promise_names_tests_that_are_there(promise: str, held_by: str) -> None:
    named = NAMED.findall(held_by)

    assert NAMED.sub("", held_by).replace("<br>", "").strip() == ""
    for file, test in named:
        assert f"def {test}(" in TEST_FILES[file].read_text(), f"{file} has no {test}"


@pytest.mark.parametrize("kind", [ONE_SERVER, CLUSTER], ids=lambda kind: kind.name)
def test_the_page_has_the_table_of_the_last_run_that_was_kept(kind: Kind) -> None:
    report = json.loads(kind.result.read_text())

    found = kind.on_the_page.search(PAGE.read_text())
    assert found is not None
    assert found[0] == page_text(report, kind)
    assert not any(part["problems"] for part in report["parts"].values())


def test_a_part_that_is_left_out_stays_with_its_commit(tmp_path: Path) -> None:
    out = tmp_path / "chaos.json"
    save(begin(out, ["fastapi"]) | {"commit": "1a"}, "random", {"lost": 1}, out)
    save(begin(out, ["fastapi"]) | {"commit": "2b"}, "failpoints", {"lost": 2}, out)

    assert json.loads(out.read_text())["parts"] == {
        "random": {"lost": 1, "commit": "1a"},
        "failpoints": {"lost": 2, "commit": "2b"},
    }
    with pytest.raises(SystemExit, match="of other versions: name another with --out"):
        begin(out, ["fastapi", "httpx"])
