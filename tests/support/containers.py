"""Images and containers for tests, by podman, on Debian's bases as mmdebstrap makes them.

What is downloaded for them is kept under `.cache/image`, and the images by podman.
"""

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from paths import ROOT, TESTS

CACHE = ROOT / ".cache" / "image"
NEEDED_BY_TORCH = ("torch", "diffusers", "transformers", "accelerate", "triton")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

_ENVIRONMENT = {**os.environ, "CONTAINERS_CONF": str(TESTS / "image" / "containers.conf")}
_LEFT_OUT = ("man", "doc", "locale")
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def podman(*arguments: str | Path, fails: bool = False) -> str:
    """What podman prints; with `fails`, both its outputs once it has failed."""
    ran = subprocess.run(
        ["podman", *arguments], env=_ENVIRONMENT, stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT if fails else subprocess.PIPE,
    )  # fmt: skip
    assert (ran.returncode != 0) == fails, f"{ran.args}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
    return ran.stdout.strip()


def debian(release: str, *packages: str) -> str:
    """The name of a base image like Debian's slim one of that release, with these packages."""
    tag = "-".join([release, "slim", *packages])
    name = f"docker.io/library/debian:{tag}"
    if podman("images", "--quiet", name):
        return name
    archive = CACHE / f"{tag}.tar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=minbase"),
            f"--include={','.join(['ca-certificates', *packages])}",
            '--aptopt=Acquire::Languages "none"',
            *(f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in _LEFT_OUT),
            *(release, archive),
        ],
        check=True,
    )
    podman("import", "--quiet", "--change", 'CMD ["bash"]', archive, name)
    archive.unlink()
    return name


def requirements_of(*extras: str) -> list[str]:
    """What the project needs with these extras; one that names other extras stands for theirs."""
    wanted = list(PROJECT["dependencies"])
    for extra in extras:
        for each in PROJECT["optional-dependencies"][extra]:
            named = re.fullmatch(rf"{PROJECT['name']}\[(.+)\]", each)
            wanted += [each] if named is None else requirements_of(*named[1].split(","))
    return list(dict.fromkeys(wanted))


def image_extras() -> list[str]:
    """Those that an image has unless its builder says otherwise."""
    named = re.search(r'^ARG EXTRAS="(.+)"$', (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert named is not None
    return named[1].split(",")


def wheelhouse(requirements: Sequence[str], python: str | None = None) -> Path:
    """A folder with wheels of these and of all that they need, for this Python or another."""
    constraints = ROOT / "constraints.txt"
    of_python = [] if python is None else ["--only-binary=:all:", f"--python-version={python}"]
    if python is not None:
        of_python += [f"--platform={platform}" for platform in _PLATFORMS]
    key = repr((sorted(requirements), of_python, constraints.read_text()))
    folder = CACHE / f"wheels-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if folder.exists():
        return folder
    part = folder.with_suffix(".part")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(part)]
    subprocess.run([*command, "-c", str(constraints), *of_python, *requirements], check=True)
    return part.rename(folder)


def build(name: str, base: str, wheels: Path) -> None:
    """Build the image of the Dockerfile, whose pip finds packages in `wheels` alone."""
    pip = CACHE / "pip.conf"
    pip.write_text("[global]\nno-index = true\nfind-links = /wheelhouse\n")
    podman(
        *("build", "--isolation=chroot", "--network=host", "--pull=never", "--format=docker"),
        *("--layers", f"--build-arg=BASE={base}", f"--tag={name}"),
        *(f"--volume={wheels}:/wheelhouse:ro", f"--volume={pip}:/etc/pip.conf:ro", ROOT),
    )


@dataclass(frozen=True, slots=True)
class Container:
    """A container that was started."""

    name: str

    def exec(self, *command: str) -> str:
        """Run a command in it."""
        return podman("exec", self.name, *command)

    def beside(self) -> list[str]:
        """The beginning of a command line whose program has the container's network."""
        pid = podman("inspect", "--format={{.State.Pid}}", self.name)
        return ["nsenter", f"--net=/proc/{pid}/ns/net"]

    def logs(self) -> str:
        """What it wrote to both outputs."""
        command = ["podman", "logs", self.name]
        return subprocess.check_output(command, env=_ENVIRONMENT, stderr=subprocess.STDOUT).decode()


@contextmanager
def running(name: str, *arguments: str) -> Iterator[Container]:
    """A container, which is removed at the end."""
    podman("run", "--detach", f"--name={name}", *arguments)
    try:
        yield Container(name)
    finally:
        podman("rm", "--force", "--time=0", name)


@contextmanager
def volume(name: str) -> Iterator[str]:
    """A new volume, which is removed at the end; one that a run left that was killed goes first."""
    podman("volume", "rm", "--force", name)
    podman("volume", "create", name)
    try:
        yield name
    finally:
        podman("volume", "rm", "--force", name)
