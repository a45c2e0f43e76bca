"""Programs that start a process and are killed."""

import os
import subprocess
import sys
import textwrap

import psutil
from paths import SUPPORT


def child_of_killed(program: str, *arguments: str) -> psutil.Process:
    """The process whose id the program printed before it was killed."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        text=True,
    ) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
    return child
