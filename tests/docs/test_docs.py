"""The documents say what the code does."""

import itertools
import json
import re
import subprocess
from pathlib import Path

import api_page
import pytest
import settings_page
from page_blocks import blocks_of
from paths import DOCS, ROOT

from benchmarks import cluster_report, stopping
from server.config.settings import Settings
from server.doctor.server_checks import BESIDE_THE_DRAIN_S, STOP_S

README = (ROOT / "README.md").read_text()
IN_THE_README = 10
"""Settings that most people need."""


def settings_rows(page: str) -> list[str]:
    names = ("| `COSMOS_", "| `CUDA_", "| `NVIDIA_", "| `HF_")
    return [line for line in page.splitlines() if line.startswith(names)]


def test_the_page_on_settings_has_them_as_they_are() -> None:
    """`make settings-page` writes them."""
    page = settings_page.PAGE.read_text()
    assert settings_page.page_text(page) == page


def test_every_setting_is_in_one_table() -> None:
    """A new one is named in `GROUPS` of tests/support/settings_page.py."""
    listed = sorted(name for names in settings_page.GROUPS.values() for name in names)
    assert listed == sorted(Settings.model_fields)


def test_the_readme_has_ten_settings_as_they_are() -> None:
    """`make settings-page` writes them, too."""
    rows = settings_rows(README)
    assert len(rows) == IN_THE_README
    assert set(rows) <= set(settings_rows(settings_page.PAGE.read_text()))


def test_the_examples_of_settings_can_be_read_and_say_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variables, file = (
        block.code for block in blocks_of(settings_page.PAGE) if block.language in ("ini", "toml")
    )
    (tmp_path / "cosmos-serve.toml").write_text(file)
    with monkeypatch.context() as environment:
        environment.setenv("COSMOS_CONFIG", str(tmp_path / "cosmos-serve.toml"))
        of_file = Settings.load()
    for line in variables.splitlines():
        monkeypatch.setenv(*line.split("=", maxsplit=1))
    of_variables = Settings.load()

    assert of_variables.model_dump() == of_file.model_copy(update={"config": None}).model_dump()
    assert of_variables.model_fields_set == of_file.model_fields_set - {"config"}


def test_the_readme_is_short_and_says_first_what_was_not_run() -> None:
    lines = README.splitlines()
    assert len(lines) <= 120
    head = " ".join(lines[:5])
    assert "real weights have not been run here" in head and "by random ones" in head


def test_the_page_on_operating_has_the_times_of_the_last_run_that_was_kept() -> None:
    report = json.loads(stopping.RESULTS.read_text())
    page = (DOCS / "operating.md").read_text()
    assert stopping.page_text(page, report) == page


def test_the_page_on_clusters_has_the_rates_of_the_last_run_that_was_kept() -> None:
    report = json.loads(cluster_report.RESULT.read_text())
    page = (DOCS / "cluster.md").read_text()
    assert cluster_report.page_text(page, report) == page


def test_slots_of_a_dispatcher_work_nearly_all_of_the_time() -> None:
    """As measured, with jobs of 36 s."""
    report = json.loads(cluster_report.RESULT.read_text())
    busy = {
        (database, what): found
        for database, part in report["databases"].items()
        for what, found in part.items()
        if what.endswith("busy")
    }
    slots = ("1 slots, busy", "8 slots, busy", "64 slots, busy", "256 slots, busy")
    assert set(busy) == set(itertools.product(("sqlite", "postgresql"), slots))
    assert min(found["efficiency"] for found in busy.values()) >= 0.97


def test_a_server_ends_within_the_time_that_it_is_given() -> None:
    """As measured. `cosmos-serve doctor` and the pages count with these."""
    report = json.loads(stopping.RESULTS.read_text())
    assert report["drain"] == Settings.model_fields["drain_seconds"].default
    assert max(report["seconds"]["idle"]) <= 3
    assert max(report["seconds"]["busy"]) <= report["drain"] + BESIDE_THE_DRAIN_S <= STOP_S


def stop_times() -> list[tuple[str, str]]:
    """Every stop time that the tree sets, with its file."""
    names = "stop_grace_period|terminationGracePeriodSeconds|TimeoutStopSec|--stop-timeout"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    return [
        (name, seconds)
        for name in files.stdout.splitlines()
        if Path(name).parts[0] in ("compose.yaml", "deploy", "docs", "README.md", "Dockerfile")
        if (ROOT / name).is_file() and Path(name).suffix not in (".png", ".jpg", ".gif", ".mp4")
        for seconds in re.findall(rf"(?:{names})[:= ]+(\d+)", (ROOT / name).read_text())
    ]


@pytest.mark.parametrize(("file", "seconds"), stop_times())
def test_wherever_a_stop_time_is_set_it_is_the_one_that_is_counted_with(
    file: str, seconds: str
) -> None:
    assert int(seconds) == STOP_S, file


@pytest.mark.parametrize("target", ["demo", "serve", "check", "test", "bench"])
def test_the_readme_names_the_make_targets(target: str) -> None:
    assert f"make {target}" in README


def test_the_make_targets_that_the_pages_name_are_there() -> None:
    made = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)", made, re.MULTILINE)
    assert phony is not None
    pages = [README, *(page.read_text() for page in DOCS.glob("*.md"))]
    named = {name for page in pages for name in re.findall(r"`make ([a-z-]+)", page)}
    assert named.union(phony[1].split()) <= set(re.findall(r"^([a-z-]+):", made, re.MULTILINE))


def test_the_page_on_the_api_has_the_fields_as_they_are() -> None:
    """`make api-page` writes them."""
    page = api_page.PAGE.read_text()
    assert api_page.page_text(page) == page


STRUCTURE = (DOCS / "structure.md").read_text()
PACKAGES = [
    ".".join(path.parent.relative_to(ROOT).parts)
    for top in ("server", "pipeline", "weights")
    for path in sorted((ROOT / top).rglob("__init__.py"))
]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_page_on_structure_has_every_package(package: str) -> None:
    inner = ("server.api.routes", "server.db.migrations", "pipeline.network.kernels")
    if not package.startswith(inner):
        assert f"\n| `{package}` | " in STRUCTURE


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w/]+\.py)`", STRUCTURE))))
def test_the_page_on_structure_names_files_that_are_there(path: str) -> None:
    assert any((ROOT / folder / path).is_file() for folder in ("", "server"))


@pytest.mark.parametrize("module", sorted(set(re.findall(r"`(server\.[a-z_.]+)`", STRUCTURE))))
def test_the_page_on_structure_names_modules_that_are_there(module: str) -> None:
    path = ROOT / module.replace(".", "/")
    assert path.is_dir() or path.with_suffix(".py").is_file()
