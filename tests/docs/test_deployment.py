"""The Dockerfile, compose.yaml and deploy/ agree with the program. `deploy/check.sh` has tools read
them, and `tests/image` builds and runs the image."""

import re
import tomllib
from pathlib import Path

import pytest
from paths import DOCS, ROOT

from server.config.errors import PREFIX
from server.config.settings import Settings
from server.fal.urls import FAL_HOSTS
from server.workers.ray_node import OBJECT_STORE_BYTES

FILES = [
    ROOT / "Dockerfile",
    ROOT / "compose.yaml",
    *(path for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file()),
]
SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_settings_are_called_as_they_are(path: Path) -> None:
    named = set(re.findall(r"\bCOSMOS_[A-Z_]*[A-Z]\b", path.read_text()))

    assert named <= SETTINGS


def test_every_stop_time_is_that_of_the_drain_and_what_follows() -> None:
    times = {
        "compose.yaml": r"stop_grace_period: (\d+)s",
        "deploy/cosmos-serve.service": r"TimeoutStopSec=(\d+)",
        "deploy/helm/templates/deployment.yaml": r"terminationGracePeriodSeconds: (\d+)",
    }
    seconds = {name: re.findall(time, text_of(name)) for name, time in times.items()}

    assert seconds == {name: ["30"] for name in times}
    assert Settings.model_fields["drain_seconds"].default + 10 < 30


def test_compose_has_all_of_fal_s_names() -> None:
    """With one of them left out a client may send its key and its prompt to fal."""
    (aliases,) = re.findall(r"aliases:\n((?: +- .+\n)+)", text_of("compose.yaml"))

    assert re.findall(r"- (.+)", aliases) == list(FAL_HOSTS)


def test_ray_s_containers_have_room_for_its_messages() -> None:
    """Docker gives 64 MiB, and Ray would have them on a disk."""
    nodes = re.findall(r"^  ray-.+\n(?:    .+\n)+", text_of("compose.yaml"), re.MULTILINE)
    sizes = [re.search(r"shm_size: (\d+)gb", node) for node in nodes]

    assert len(sizes) == 2
    assert all(size and int(size[1]) * 2**30 > OBJECT_STORE_BYTES for size in sizes)


@pytest.mark.parametrize(
    ("name", "language"), [("nginx.conf", "nginx"), ("Caddyfile", "caddyfile")]
)
def test_the_samples_of_proxies_are_those_of_the_page(name: str, language: str) -> None:
    """`tests/clients/test_clients_proxies.py` runs them."""
    page = (DOCS / "reverse-proxies.md").read_text()

    assert f"```{language}\n{text_of(f'deploy/{name}')}```\n" in page
    assert f"`deploy/{name}`" in page


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    dockerfile, ignored = text_of("Dockerfile"), text_of(".dockerignore")
    copied = " ".join(re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)).split()
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    assert set(packages) < set(copied)
    assert set(re.findall(r"^!(.+)$", ignored, re.MULTILINE)) == set(copied)
    assert re.search(r"^\*$", ignored, re.MULTILINE)


def test_the_chart_is_of_this_release() -> None:
    version = PROJECT["project"]["version"]

    assert f"\nappVersion: {version}\n" in text_of("deploy/helm/Chart.yaml")
