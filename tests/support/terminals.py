"""Terminals in a fresh clone of the repository, on a network of their own where all ports are free.

What is pasted there runs as it stands. Beyond this machine nothing can be reached.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from client_programs import needed_root
from page_blocks import Block
from paths import CLIENTS, ROOT

_END = "the block has ended:"
_READY = "python -c 'import urllib.request as u; u.urlopen(\"http://127.0.0.1:8000/health/ready\")'"


@dataclass
class Terminal:
    """A shell that is given one block after the other, as by paste."""

    process: subprocess.Popen[str]

    def paste(self, code: str) -> str:
        """Run lines to their end; what they print. Each command must succeed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        # What the last command prints need not end its line.
        self.start(f"trap 'failed=1' ERR\nfailed=\n{code}\necho; echo '{_END}' $failed")
        printed: list[str] = []
        for line in self.process.stdout:
            if line.startswith(_END):
                assert line.strip() == _END, f"a command of this block failed:\n{code}\n{printed}"
                return "".join(printed).strip()
            printed.append(line)
        raise AssertionError(f"the terminal was closed by this block:\n{code}\n{printed}")

    def start(self, code: str) -> None:
        """Begin lines whose last command goes on."""
        assert self.process.stdin is not None
        print(code, file=self.process.stdin)
        self.process.stdin.flush()

    def close(self) -> None:
        """End the shell and what it runs; returns when nothing of it is left."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.communicate()


@dataclass
class Desk:
    """A clone, and the terminals that are open in it."""

    clone: Path
    network: int
    environment: dict[str, str]
    closing: ExitStack
    server: Terminal | None = field(default=None)

    def open(self) -> Terminal:
        """Another terminal."""
        process = subprocess.Popen(
            ["nsenter", f"--net=/proc/{self.network}/ns/net", "bash"],
            cwd=self.clone,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        terminal = Terminal(process)
        self.closing.callback(terminal.close)
        return terminal

    def serve(self, terminal: Terminal, block: Block) -> None:
        """Run a block that starts a server, which has the terminal from then on, until it is ready.

        The server of an earlier block is ended first.
        """
        if self.server is not None:
            self.server.close()
        self.server = terminal
        terminal.start(block.code)
        probe = ["nsenter", f"--net=/proc/{self.network}/ns/net", "bash", "-c", _READY]
        while subprocess.run(probe, env=self.environment, capture_output=True).returncode != 0:
            assert terminal.process.poll() is None, "the server's terminal was closed"
            time.sleep(0.2)


@contextmanager
def desk_in(folder: Path, **environment: str) -> Iterator[Desk]:
    """A fresh clone in `folder`. Without `environment`, its shells inherit no variable."""
    needed_root()
    clone = _clone(folder / "cosmos-serve")
    plain = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    # An editable install is of one folder; this is what `make setup` would have done in the clone.
    shell = plain | {"PYTHONPATH": str(clone)} | environment
    network = subprocess.Popen(
        ["unshare", "--net", "bash", "-c", "ip link set lo up && echo && exec sleep infinity"],
        stdout=subprocess.PIPE,
    )
    assert network.stdout is not None
    with network.stdout as said, ExitStack() as closing:
        closing.callback(network.wait)
        closing.callback(network.kill)
        assert said.readline() == b"\n"
        yield Desk(clone, network.pid, shell, closing)


def _clone(folder: Path) -> Path:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        source, copy = ROOT / name, folder / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            # Older than what is installed, so that make installs nothing.
            os.utime(copy, (0, 0))
    (folder / ".venv").symlink_to(ROOT / ".venv")
    if (CLIENTS / "node_modules").is_dir():
        (folder / "node_modules").symlink_to(CLIENTS / "node_modules")
    return folder
