"""The documents say what the code does."""

import pytest
from paths import ROOT

from server.settings import PREFIX, Settings

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
    rows = [line for line in README.splitlines() if line.startswith(("| `COSMOS_", "| `CUDA_"))]
    assert len(rows) == len(Settings.model_fields)


@pytest.mark.parametrize("target", ["demo", "serve", "check", "test", "bench"])
def test_the_make_targets_that_the_readme_names_are_there(target: str) -> None:
    assert f"make {target}" in README
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()
