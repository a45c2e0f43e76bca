"""Nothing that is done all the time takes longer for jobs that are done.

SQLite's instructions are counted, which are the same on any machine at any time.
"""

from pathlib import Path

import pytest
from growth import OPERATIONS, FullTables, counted_steps

FEW, MANY = 50, 2000


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, int]]:
    """The instructions of each operation beside few finished jobs and beside many."""
    found: dict[int, dict[str, int]] = {}
    for finished in (FEW, MANY):
        found[finished] = {}
        with counted_steps() as steps:
            full = FullTables(tmp_path_factory.mktemp("full"), finished)
            for name, operation in OPERATIONS.items():
                before = steps.count
                operation(full)
                found[finished][name] = steps.count - before
            full.database.close()
    return found


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_statement_grows_with_the_jobs_that_are_done(
    steps: dict[int, dict[str, int]], name: str
) -> None:
    few, many = steps[FEW][name], steps[MANY][name]
    assert 0 < many < 1.5 * few + 100, f"{few} instructions became {many}"


def test_a_scan_would_have_been_seen(tmp_path: Path) -> None:
    with counted_steps() as steps:
        full = FullTables(tmp_path, MANY)
        before = steps.count
        with full.database.read() as db:
            db.exec_driver_sql("SELECT id FROM jobs WHERE endpoint = ''").all()
        full.database.close()
    assert steps.count - before > MANY
