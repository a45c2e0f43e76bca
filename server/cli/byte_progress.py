"""How many bytes are done, on stderr: a bar on a terminal, lines elsewhere."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from server.cli.printing import size_text
from server.workers.progress_text import duration

LINE_EVERY = 0.02
"""Elsewhere than on a terminal there is a line for each such part of the whole."""


class ByteDisplay(Protocol):
    """Shows what it is told, from any thread."""

    def advance(self, count: int) -> None:
        """So many bytes more are done; fewer, if the number is negative."""

    def say(self, line: str) -> None:
        """Something has happened."""


@contextmanager
def byte_progress(word: str, total: int, console: Console) -> Iterator[ByteDisplay]:
    """A display of `total` bytes that suits the console."""
    if not console.is_terminal:
        yield Lines(word, total, console)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        yield Bar(word, total, bar)


class Bar:
    """One bar, with the rate and the time that is left."""

    def __init__(self, word: str, total: int, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task(word, total=total)
        self._lock = threading.Lock()
        # rich takes the rate from the last thousand calls, which must not be those of one second.
        self._step = total / 1000
        self._untold = 0

    def advance(self, count: int) -> None:
        with self._lock:
            self._untold += count
            if abs(self._untold) >= self._step:
                self._bar.advance(self._task, self._untold)
                self._untold = 0

    def say(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False)


class Lines:
    """A line for every fiftieth of the bytes, with the rate since the last one."""

    def __init__(self, word: str, total: int, console: Console) -> None:
        self._word = word
        self._total = total
        self._console = console
        self._lock = threading.Lock()
        self._done = 0
        self._said = 0
        self._said_at = time.monotonic()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            moved = self._done - self._said
            if moved < 0:
                self._said = self._done
            elif moved >= self._total * LINE_EVERY or (moved and self._done == self._total):
                self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        rate = (self._done - self._said) / max(now - self._said_at, 1e-9)
        left = duration((self._total - self._done) / rate)
        self._said, self._said_at = self._done, now
        self.say(
            f"{self._word}: {self._done / self._total:.0%} of {size_text(self._total)}, "
            f"{size_text(rate)}/s, {left} left"
        )

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
