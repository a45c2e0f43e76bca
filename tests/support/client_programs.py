"""Clients of others, run as programs of their own that cannot reach beyond this machine."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import pytest
from paths import CLIENTS

OFFLINE = CLIENTS / "offline"
ENVIRONMENTS = CLIENTS.parent.parent / ".cache" / "clients"
"""Where the Makefile installs the clients that must not meet ours."""

LONGEST_S = 100


def run_program(
    command: Sequence[str], environment: Mapping[str, str], code: str = "", hosts: str = ""
) -> list[str]:
    """Run a program with `code` as its input; the lines that it prints.

    Of this process's environment it gets no more than a fresh shell would have. If `hosts` names
    a file, the program sees that in place of /etc/hosts.
    """
    plain = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    ran = subprocess.run(
        [*_with_hosts(hosts), *command] if hosts else command,
        cwd=CLIENTS,
        env={**plain, **environment},
        input=code,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
    )
    assert ran.returncode == 0, f"exit code {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout.splitlines()


def run_python(
    code: str, environment: Mapping[str, str], python: str = sys.executable, hosts: str = ""
) -> list[str]:
    """Run Python code in a process that ends if it looks for another host."""
    return run_program([python, "-"], {"PYTHONPATH": str(OFFLINE), **environment}, code, hosts)


def run_node(code: str, environment: Mapping[str, str], hosts: str = "") -> list[str]:
    """Run a JavaScript module, beside the installed packages, in a process of the same kind."""
    return run_program([*_node(), "--input-type=module", "-"], environment, code, hosts)


def run_node_file(name: str, environment: Mapping[str, str], **given: Any) -> list[Any]:
    """Run `tests/clients/<name>`, which reads what it is given as JSON, and prints JSON lines."""
    lines = run_program([*_node(), str(CLIENTS / name), json.dumps(given)], environment)
    return [json.loads(line) for line in lines]


def run_shell(code: str, environment: Mapping[str, str]) -> str:
    """Run shell lines; all that they print."""
    return "\n".join(run_program(["bash", "-eu"], environment, code))


def needed_root() -> None:
    """What needs a mount of its own and a port below 1024 can only be tested as root."""
    may_mount = subprocess.run(["unshare", "--mount", "true"], capture_output=True)
    if os.geteuid() != 0 or may_mount.returncode != 0:
        not_here("Hosts can only be mapped by root.")


def _with_hosts(hosts: str) -> list[str]:
    """A command that runs another one where the file `hosts` is /etc/hosts: for it alone."""
    script = f'mount --bind {shlex.quote(hosts)} /etc/hosts && exec "$@"'
    return ["unshare", "--mount", "bash", "-c", script, "bash"]


def _node() -> list[str]:
    node = needed_program("node")
    if not (CLIENTS / "node_modules").is_dir():
        not_here("The JavaScript clients are not installed: run `make test-clients`.")
    return [node, "--require", str(OFFLINE / "offline.cjs")]


def needed_program(*names: str) -> str:
    """Where the first of these programs is; without any, the test cannot run."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        not_here(f"There is no {names[0]} on this machine.")
    return found


def not_here(what: str) -> NoReturn:
    """End the test: where all must be tested it fails, elsewhere it is skipped, with a reason."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} With CI=true nothing is left out.")
    pytest.skip(what)
