"""`cosmos-serve node`: what it refuses before Ray is started."""

from pathlib import Path

import pytest
from checkpoint_files import write_checkpoint
from command_line import call


@pytest.fixture
def node(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, ...]:
    """The command for a head, in a home that has nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    weights = write_checkpoint(tmp_path / "checkpoint")
    return ("node", "--head", "--weights", str(weights), "--data", str(tmp_path / "data"))


def test_without_a_token_it_says_how_to_make_one(
    capsys: pytest.CaptureFixture[str], node: tuple[str, ...], tmp_path: Path
) -> None:
    code, _, err = call(capsys, *node)

    assert code == 1
    assert err.startswith("cosmos-serve: There is no token of Ray")
    assert "`ray get-auth-token --generate`" in err and "RAY_AUTH_TOKEN" in err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("place", ["variable", "path", "home"])
def test_a_token_is_found_where_ray_looks_for_it(
    capsys: pytest.CaptureFixture[str],
    node: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """The next thing that is refused is what comes after it."""
    token = tmp_path / "token" if place == "path" else tmp_path / ".ray" / "auth_token"
    if place == "variable":
        monkeypatch.setenv("RAY_AUTH_TOKEN", "a-secret")
    else:
        token.parent.mkdir(exist_ok=True)
        token.write_text("a-secret")
    if place == "path":
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))

    code, _, err = call(capsys, *node, "--devices", "cpu+cpu")

    assert (code, "the same number of GPUs each" in err) == (2, True), err
