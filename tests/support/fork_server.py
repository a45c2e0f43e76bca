"""Commands that start at once: forked by a process that has imported what they need.

    python fork_server.py SOCKET

The program forks one for every message on the socket, so that each is a process of its own that
has not to import anything: that is most of a start. A message is JSON: the arguments of
`cosmos-serve`, its environment and its folder, and the failpoint at which it is killed, if any.
With it come the files for its stdout and stderr, and a pipe, on which are written its process id,
and its exit code when it has ended.
"""

import atexit
import functools
import itertools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from failpoints import arm
from paths import SUPPORT

from server.cli.main import main

Failpoint = tuple[str, int]
"""A point, and the number of the passing at which the server is killed."""
_MAX_MESSAGE = 1 << 17


class ForkServer:
    """The program, from outside."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": str(SUPPORT)},
                pass_fds=[theirs.fileno()],
            )

    def close(self) -> None:
        self._channel.close()
        self._process.wait()

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        failpoint: Failpoint | None = None,
        *,
        folder: Path | None = None,
        stderr: int = 2,
    ) -> "ForkedProcess":
        """Start `cosmos-serve` with these arguments, in this folder or that of the tests.

        `stderr` is a file, or `subprocess.PIPE`.
        """
        message = json.dumps([arguments, dict(environment), str(folder or Path.cwd()), failpoint])
        (printed, stdout), (told, status) = os.pipe(), os.pipe()
        given = [stdout, status]
        complained = None
        if stderr == subprocess.PIPE:
            complained, stderr = os.pipe()
            given.append(stderr)
        socket.send_fds(self._channel, [message.encode()], [stdout, stderr, status])
        for file in given:
            os.close(file)
        return ForkedProcess(printed, complained, told)


@functools.cache
def fork_server() -> ForkServer:
    """The one of this process, for all its tests."""
    server = ForkServer()
    atexit.register(server.close)
    return server


class ForkedProcess:
    """A command that was forked, with the members of a `subprocess.Popen[str]` that tests use."""

    def __init__(self, printed: int, complained: int | None, told: int) -> None:
        self.stdout = os.fdopen(printed)
        self.stderr = None if complained is None else os.fdopen(complained)
        self.returncode: int | None = None
        # Unbuffered: what has been read ahead is not to be waited for.
        self._told = os.fdopen(told, "rb", buffering=0)
        self.pid = self._read_number(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        with self.stdout, self.stderr or nullcontext():
            self.wait()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it prints on stdout and on stderr, once it has ended."""
        with ThreadPoolExecutor(1) as threads:
            err = threads.submit(self.stderr.read) if self.stderr is not None else None
            out = self.stdout.read()
        self.wait(timeout)
        return out, "" if err is None else err.result()

    def poll(self) -> int | None:
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = self._read_number(timeout)
            self._told.close()
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read_number(self, timeout: float | None) -> int:
        with selectors.DefaultSelector() as selector:
            selector.register(self._told, selectors.EVENT_READ)
            if not selector.select(timeout):
                raise subprocess.TimeoutExpired("cosmos-serve", timeout or 0.0)
        return int(self._told.readline())


def _serve(channel: socket.socket) -> None:
    """Start a command for every message, until the other side is closed."""
    import server.cli.render
    import server.serve  # noqa: F401 - the commands need not

    while True:
        message, files, *_ = socket.recv_fds(channel, _MAX_MESSAGE, 3)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not message:
            return
        if os.fork() == 0:
            channel.close()
            _keep(message, *files)
            return
        for file in files:
            os.close(file)


def _keep(message: bytes, stdout: int, stderr: int, status: int) -> None:
    """Be the parent of a command, and tell of it."""
    pid = os.fork()
    if pid == 0:
        os.close(status)
        _run(message, stdout, stderr)
    # What they print ends when it ends.
    os.close(stdout)
    os.close(stderr)
    os.write(status, b"%d\n" % pid)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(status, b"%d\n" % code)
    os._exit(0)


def _run(message: bytes, stdout: int, stderr: int) -> NoReturn:
    arguments, environment, folder, failpoint = json.loads(message)
    for file, number in ((stdout, 1), (stderr, 2)):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if failpoint is not None:
        _kill_at(*failpoint)
    sys.argv = ["cosmos-serve", *arguments]
    main()
    raise AssertionError("main ends by SystemExit")


def _kill_at(point: str, passing: int) -> None:
    passings = itertools.count(1)

    def pass_or_die() -> None:
        if next(passings) == passing:
            os.kill(os.getpid(), signal.SIGKILL)

    arm(point, pass_or_die)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as socket_to_tests:
        _serve(socket_to_tests)
