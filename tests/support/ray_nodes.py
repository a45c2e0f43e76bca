"""Nodes of Ray as a user starts them, which can be killed and started again."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Self

import psutil
from servers import COMMAND, SCRIPTED, settings_in


class RayNode:
    """`cosmos-serve node` on a folder of its own. As a context manager it runs meanwhile."""

    def __init__(self, folder: Path, *options: str, devices: str = "cpu", **environment: str):
        self.folder = folder
        settings = settings_in(folder)
        folders = [f"--weights={settings.weights}", f"--data={settings.data}"]
        self._command = [str(COMMAND), "node", *folders, "--devices", devices, *options]
        self._environment = {**os.environ, **SCRIPTED, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, env=self._environment)

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Kill it with all that it started, as by the loss of power."""
        assert self._process is not None
        kill_all_of(self._process)


def kill_all_of(process: subprocess.Popen[bytes]) -> None:
    """Kill a program with all that it started."""
    if process.poll() is None:
        this = psutil.Process(process.pid)
        for each in [this, *this.children(recursive=True)]:
            if each.is_running():
                each.send_signal(signal.SIGKILL)
    process.wait()
