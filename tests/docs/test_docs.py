"""The documents say what the code does."""

import re

import api_page
import pytest
from paths import DOCS, ROOT

from server.config.errors import PREFIX
from server.config.settings import Settings

README = (ROOT / "README.md").read_text()


def settings_row(name: str) -> str:
    """The README's row for one field of the settings."""
    field = Settings.model_fields[name]
    variable = field.validation_alias or PREFIX + name.upper()
    default = "" if field.default in (None, "", ()) or field.is_required() else field.default
    shown = f"`{default}`" if default != "" else "required" if field.is_required() else ""
    return f"| `{variable}` | {shown} | {field.description} |"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_readme_lists_every_setting_as_it_is(name: str) -> None:
    assert settings_row(name) in README.splitlines()


def test_the_readme_lists_no_other_setting() -> None:
    names = ("| `COSMOS_", "| `CUDA_", "| `NVIDIA_")
    rows = [line for line in README.splitlines() if line.startswith(names)]
    assert len(rows) == len(Settings.model_fields)


@pytest.mark.parametrize("target", ["demo", "serve", "check", "test", "bench"])
def test_the_make_targets_that_the_readme_names_are_there(target: str) -> None:
    assert f"make {target}" in README
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()


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
