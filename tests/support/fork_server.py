"""Servers that are killed when they pass a failpoint for the nth time, and that start at once.

    python fork_server.py

The program imports what a server needs, and forks one for every line that it reads, so that each
is a process of its own that has not to import anything: that is most of a start. A line is JSON:
the failpoint and the passing, the arguments of `cosmos-serve`, and variables of the environment. It
answers with the server's process id, and with its exit code when that has ended.
"""

import itertools
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Self

from failpoints import arm
from paths import SUPPORT

from server.cli.main import main

Failpoint = tuple[str, int]
"""A point, and the number of the passing at which the server is killed."""


class ForkServer:
    """The program, from outside: it has one server at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "PYTHONPATH": str(SUPPORT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def start(
        self, failpoint: Failpoint, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> "ForkedServer":
        """Start a server that is killed at the failpoint."""
        assert self._process.stdin is not None
        print(json.dumps([failpoint, arguments, environment]), file=self._process.stdin, flush=True)
        return ForkedServer(self, int(self.read_line()))

    def read_line(self, timeout_s: float | None = None) -> str:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                raise subprocess.TimeoutExpired("a server", timeout_s or 0.0)
        return self._process.stdout.readline()


class ForkedServer:
    """A server that was forked, with the methods that a `subprocess.Popen` has."""

    def __init__(self, fork_server: ForkServer, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._fork_server = fork_server

    def poll(self) -> int | None:
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout_s: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = int(self._fork_server.read_line(timeout_s))
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _serve_lines() -> None:
    """Start a server for every line of stdin, and wait for its end."""
    import server.serve  # noqa: F401 - the servers need not

    for line in sys.stdin:
        failpoint, arguments, environment = json.loads(line)
        pid = os.fork()
        if pid == 0:
            # What a server prints is not for the reader of its process id.
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
            os.environ.update(environment)
            _kill_at(*failpoint)
            sys.argv = ["cosmos-serve", *arguments]
            main()
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _kill_at(point: str, passing: int) -> None:
    passings = itertools.count(1)

    def pass_or_die() -> None:
        if next(passings) == passing:
            os.kill(os.getpid(), signal.SIGKILL)

    arm(point, pass_or_die)


if __name__ == "__main__":
    _serve_lines()
