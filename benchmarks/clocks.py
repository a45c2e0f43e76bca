"""What nvidia-smi says of a GPU's clocks, power and temperature."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_QUERY = "clocks.sm,clocks.mem,power.draw,temperature.gpu,driver_version"
_EVERY_S = 5.0


def clocks() -> str:
    """The line of this moment; empty where there is no nvidia-smi."""
    try:
        run = subprocess.run(
            ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip()


@contextmanager
def watched_clocks() -> Iterator[list[str]]:
    """A list that gets a line every few seconds for as long as the context lasts."""
    lines = [clocks()]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_EVERY_S):
            lines.append(clocks())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lines
    finally:
        ended.set()
        thread.join()
