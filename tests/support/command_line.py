"""The command line in this process: quick, and beside a server that the test runs."""

import sys

import pytest

from server.cli.main import main


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `cosmos-serve` with these arguments."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ending:
        patch.setattr(sys, "argv", ["cosmos-serve", *arguments])
        main()
    code = ending.value.code
    assert code is None or isinstance(code, int)
    out, err = capsys.readouterr()
    return code or 0, out, err


class Commands:
    """`cosmos-serve` on one data folder."""

    def __init__(self, capsys: pytest.CaptureFixture[str], data: str) -> None:
        self._capsys = capsys
        self._data = data

    def __call__(self, *arguments: str) -> str:
        """What the command prints; it succeeds."""
        code, out, err = call(self._capsys, *arguments, "--data", self._data)
        assert (code, err) == (0, "")
        return out

    def fails(self, *arguments: str, code: int = 1) -> str:
        """The one line that says why it fails."""
        ended, out, err = call(self._capsys, *arguments, "--data", self._data)
        assert (ended, out, err.count("\n")) == (code, "", 1)
        return err.removeprefix("cosmos-serve: ").rstrip()
