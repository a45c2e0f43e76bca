"""How far a pull is: a bar with rate and time left on a terminal, lines elsewhere."""

import io
import time

import pytest
from rich.console import Console

from server.cli.byte_progress import byte_progress

MIB = 2**20


def test_elsewhere_than_on_a_terminal_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 50, 10))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    text = io.StringIO()

    with byte_progress("Fetching", 100 * MIB, Console(file=text)) as display:
        display.advance(1 * MIB)
        display.advance(1 * MIB)
        display.say("a.json: [again]")
        display.advance(-2 * MIB)
        display.advance(1 * MIB)
        display.advance(89 * MIB)
        display.advance(9 * MIB)
        display.advance(1 * MIB)

    assert text.getvalue().splitlines() == [
        "Fetching: 2% of 100.0 MiB, 204.8 KiB/s, 8 min 10 s left",
        "a.json: [again]",
        "Fetching: 90% of 100.0 MiB, 9.0 MiB/s, 1.1 s left",
        "Fetching: 99% of 100.0 MiB, 921.6 KiB/s, 1.1 s left",
        "Fetching: 100% of 100.0 MiB, 102.4 KiB/s, 0.0 s left",
    ]


def test_on_a_terminal_there_is_a_bar_that_goes_away() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, legacy_windows=False)

    with byte_progress("Fetching", 10 * 1024 * MIB, console) as display:
        display.advance(5 * 1024 * MIB)
        display.say("a.json: [again]")

    drawn = text.getvalue()
    assert "5.0/10.0 GiB" in drawn
    assert "a.json: [again]\n" in drawn
    assert drawn.endswith("\x1b[2K")
