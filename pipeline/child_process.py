"""Child processes that end with the thread that started them, and by no signal to end."""

import ctypes
import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a process to end, and often every process of a terminal or a service at once."""

CANNOT_START = 127
"""What a child ends with that cannot become its program; so does a program that lacks a library."""

WITHOUT_SITE = ("-I", "-S")
"""Options for a quick start: site's search for packages takes longer than the import of Pillow."""

# The child asks to be killed in an interpreter of its own, and not in `preexec_fn`: Python between
# fork and exec can deadlock where there are threads, and forking is slow once a model is mapped.
_BOOT = """
import json, sys
parent, sys.path[:], module, values = json.loads(sys.argv[1])
from pipeline.child_process import boot
boot(parent, module, values)
"""


class _Held(threading.local):
    """How often this thread holds the stop signals back, and what it had blocked before."""

    depth = 0
    before: set[int | signal.Signals] = set()  # noqa: RUF012 - replaced, never changed


_held = _Held()


@contextmanager
def stop_signals_held() -> Iterator[None]:
    """Start children with the stop signals blocked: they would end Python while it starts.

    Another thread of this process takes them meanwhile, or this one at the end. Coroutines of one
    thread may overlap.
    """
    if _held.depth == 0:
        _held.before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    _held.depth += 1
    try:
        yield
    finally:
        _held.depth -= 1
        if _held.depth == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, _held.before)


def python_command(module: str, values: Mapping[str, Any], *options: str) -> list[str]:
    """The command of a child that finds modules as this process does and calls `module.main`.

    On Linux the child is killed when the thread that starts it ends.

    Args:
        values: keyword arguments of `main`; they travel as JSON on the command line.
        options: options of the Python interpreter.
    """
    paths = [str(Path(entry).absolute()) for entry in sys.path]
    start = json.dumps([os.getpid(), paths, module, values])
    return [sys.executable, *options, "-c", _BOOT, start]


def program_command(command: list[str]) -> list[str]:
    """The command of a child that becomes another program, which is killed likewise."""
    return [*python_command(__name__, {}, *WITHOUT_SITE), *command]


def boot(parent: int, module: str, values: Mapping[str, Any]) -> None:
    """What a child does first."""
    # When a child ends is for its parent to say, who hears these signals, too. They are blocked
    # and not ignored, because ffmpeg would set handlers of its own.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit("The process that started this one has ended.")
    importlib.import_module(module).main(**values)


def main() -> None:
    """Become the program of `program_command`."""
    try:
        os.execv(sys.argv[2], sys.argv[2:])
    except OSError as error:
        print(f"{sys.argv[2]}: {error.strerror}", file=sys.stderr)
        sys.exit(CANNOT_START)
