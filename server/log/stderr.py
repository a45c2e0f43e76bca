"""Writing where the disk is full, the terminal is gone, or nobody reads on."""

import io
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from typing_extensions import Buffer

_STDERR = 2

MAX_WAITING = 4096
"""Lines that wait to be written; those that come while there are so many are left out."""
_MAX_LINE_BYTES = 4096
"""Longer lines are taken for several."""

_LAST_LINES_S = 1.0
"""How long the end waits for the lines that are still to be written."""


def unfailing(stream: TextIO) -> TextIO:
    """A text stream to where this one goes, which leaves out what cannot be written."""
    return io.TextIOWrapper(
        _Unfailing(stream.fileno(), "w", closefd=False),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
        write_through=True,
    )


class _Unfailing(io.FileIO):
    def write(self, data: Buffer, /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        with suppress(OSError):
            while rest:
                # None is a stream that has no room, and would not have us wait for it.
                rest = rest[super().write(rest) or len(rest) :]
        return size


@contextmanager
def unblocked_stderr() -> Iterator[None]:
    """Until the end of the block, no write to stderr waits or fails, here or in a child process.

    Descriptor 2 becomes a pipe. A thread empties it into a bounded queue, and another writes the
    lines where stderr was: it alone waits when a reader of stderr has stopped, and meets the error
    of a full disk. Lines that find no room or cannot be written are counted, and their number is
    written as soon as that is possible. It is done to the descriptor because tracebacks, libraries
    and workers do not ask `logging`.
    """
    target = os.dup(_STDERR)
    source, sink = os.pipe()
    # First, so that an error of its start is seen.
    relay = _Relay(source, target)
    os.dup2(sink, _STDERR)
    os.close(sink)
    try:
        yield
    finally:
        os.dup2(target, _STDERR)
        relay.end()


class _Relay:
    """Two threads that take lines from one descriptor and write them to another."""

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._lines: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING)
        # Each is counted by one of the threads alone.
        self._without_room = 0
        self._unwritten = 0
        self._told = 0
        threading.Thread(target=self._take, name="from stderr", daemon=True).start()
        self._writer = threading.Thread(target=self._write, name="to stderr", daemon=True)
        self._writer.start()

    def end(self) -> None:
        """Wait a moment for the last lines, once nobody here writes to the source any more."""
        self._writer.join(_LAST_LINES_S)

    def _take(self) -> None:
        with os.fdopen(self._source, "rb") as lines:
            while line := lines.readline(_MAX_LINE_BYTES):
                try:
                    self._lines.put_nowait(line)
                except queue.Full:
                    self._without_room += 1
        self._lines.put(None)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._tell_what_is_missing()
                _write_all(self._target, line)
            except OSError:
                self._unwritten += 1
        with suppress(OSError):
            self._tell_what_is_missing()

    def _tell_what_is_missing(self) -> None:
        missing = self._without_room + self._unwritten - self._told
        if missing:
            _write_all(self._target, b"%d lines were left out: stderr took none\n" % missing)
            self._told += missing


def _write_all(target: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(target, rest) :]
