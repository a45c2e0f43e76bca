"""Look at this machine: every fact that the checks ask for."""

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509

from pipeline.child_process import python_command
from pipeline.errors import EncodingFailed
from pipeline.ffmpeg import encoders
from pipeline.guardrail import GuardrailMissing, choose_guardrail
from server.config.settings import Settings
from server.data_folder import DataFolderError, check_access, check_is_free, check_is_local
from server.disk import DiskSpace
from server.doctor.facts import MIB, Certificate, Facts, Gpu, GpuProcess, Torch
from weights.checkpoint_profile import PROFILE_FILE
from weights.errors import CheckpointError
from weights.store import WeightStore

TORCH_S = 120.0
"""How long torch may take to be imported and to find its GPUs. A broken driver hangs."""

_PROGRAM_S = 10.0

_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_CONTAINER_MARKS = (
    *(Path("/.dockerenv"), Path("/run/.containerenv")),
    Path("/run/secrets/kubernetes.io"),
)


def collect(settings: Settings | None, settings_problem: str | None = None) -> Facts:
    """The facts of this machine. What hangs is given up; nothing is written.

    Args:
        settings: None if they cannot be read, of which `settings_problem` says why.
    """
    found: dict[str, Any] = {
        "settings": settings,
        "settings_problem": settings_problem,
        "is_container": _is_container(),
        "gpu_files": tuple(sorted(map(str, Path("/dev").glob("nvidia[0-9]*")))),
        "gpu_processes": _gpu_processes(),
        "compiler": next(filter(None, map(shutil.which, ("gcc", "clang", "cc"))), None),
        "python_header": str(_python_header()),
        "has_python_header": _python_header().is_file(),
        "now": time.time(),
        "installed": Path(__file__).stat().st_mtime,
        **_driver(),
        **_torch(),
        **_memory(),
        **_encoders(),
    }
    if settings is not None:
        found |= _of_server(settings)
    return Facts(**found)


# -- the GPU ------------------------------------------------------------------------------------


def _driver(path: Path = Path("/proc/driver/nvidia/version")) -> dict[str, Any]:
    """NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  ..."""
    with contextlib.suppress(OSError):
        version = re.search(r"\s(\d+(\.\d+)+)\s", path.read_text())
        return {"driver": version[1] if version else None}
    return {}


def _torch() -> dict[str, Any]:
    try:
        asked = subprocess.run(
            python_command("pipeline.torch_facts", {}),
            capture_output=True,
            text=True,
            timeout=TORCH_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return {"torch_problem": f"it did not answer within {TORCH_S:.0f} s."}
    if asked.returncode != 0:
        said = asked.stderr.strip().splitlines()
        how = f"its process ended with {asked.returncode}"
        return {"torch_problem": f"{said[-1] if said else how}."}
    facts = json.loads(asked.stdout.splitlines()[-1])
    gpus = tuple(
        Gpu(**gpu | {"capability": tuple(gpu["capability"])}) for gpu in facts.pop("gpus", ())
    )
    architectures = tuple(facts.pop("architectures", ()))
    return {"torch": Torch(**facts, gpus=gpus, architectures=architectures)}


def _gpu_processes() -> tuple[GpuProcess, ...]:
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return ()
    query = ["--query-compute-apps=pid,process_name,used_memory", "--format=csv,noheader,nounits"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(
            [nvidia_smi, *query], capture_output=True, text=True, timeout=_PROGRAM_S, check=True
        )
        return tuple(filter(None, map(_gpu_process, listed.stdout.splitlines())))
    return ()


def _gpu_process(line: str) -> GpuProcess | None:
    pid, _, rest = line.partition(", ")
    name, _, held = rest.rpartition(", ")
    # Where a container may not see it, the memory is "[N/A]".
    if not (pid.isdigit() and held.isdigit()):
        return None
    return GpuProcess(pid=int(pid), name=name, held=int(held) * MIB)


def _python_header() -> Path:
    return Path(sysconfig.get_path("include"), "Python.h")


# -- the machine --------------------------------------------------------------------------------


def _is_container() -> bool:
    return any(mark.exists() for mark in _CONTAINER_MARKS)


def _memory() -> dict[str, Any]:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            limit = int(path.read_text())
            if limit < whole:
                return {"memory": limit, "is_memory_limited": True}
    return {"memory": whole}


def _encoders() -> dict[str, Any]:
    try:
        return {"encoders": encoders()}
    except EncodingFailed as error:
        return {"encoders_problem": str(error)}


# -- the server ---------------------------------------------------------------------------------


def _of_server(settings: Settings) -> dict[str, Any]:
    return {
        **_checkpoint(settings),
        **_data_folder(settings),
        **_certificate(settings),
        "busy_ports": tuple(
            port
            for port in (settings.port, settings.tls_port)
            if port and not _is_free(settings.host, port)
        ),
        "key_file_mode": _mode(settings.key_file),
    }


def _checkpoint(settings: Settings) -> dict[str, Any]:
    try:
        store = WeightStore(settings.weights)
    except CheckpointError as error:
        return {"checkpoint_problem": str(error)}
    size = sum(file.stat().st_size for file in settings.weights.rglob("*.safetensors"))
    try:
        choose_guardrail(store.profile.guardrail, settings.guardrail, PROFILE_FILE)
    except GuardrailMissing as error:
        return {"checkpoint": size, "guardrail_problem": str(error)}
    return {"checkpoint": size}


def _data_folder(settings: Settings) -> dict[str, Any]:
    folder = settings.data
    # What a start would make may not be there yet.
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())

    def check_file_system() -> None:
        if not settings.any_filesystem:
            check_is_local(there, Path("/proc/self/mountinfo").read_text())

    problem = _said_by(lambda: check_access(folder), check_file_system)
    if problem is None and not os.access(there, os.W_OK | os.X_OK):
        problem = f"The data folder {folder} cannot be made: {there} is not for uid {os.geteuid()}."
    return {
        "data_problem": problem,
        "data_user": _said_by(lambda: check_is_free(folder)),
        "disk_problem": DiskSpace(there, settings.min_free_disk_mib).problem(),
    }


def _said_by(*checks: Callable[[], object]) -> str | None:
    """The sentence of the first check of a data folder that fails."""
    try:
        for check in checks:
            check()
    except DataFolderError as error:
        return str(error)
    return None


def _certificate(settings: Settings) -> dict[str, Any]:
    if settings.tls_cert is None:
        return {}
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            settings.tls_cert, settings.tls_key
        )
        first = x509.load_pem_x509_certificates(settings.tls_cert.read_bytes())[0]
    except (OSError, ValueError) as error:
        return {
            "certificate_problem": f"The certificate {settings.tls_cert} cannot be used with the "
            f"key {settings.tls_key}: {error}."
        }
    begins, ends = first.not_valid_before_utc, first.not_valid_after_utc
    times = {"begins": begins.timestamp(), "ends": ends.timestamp()}
    return {"certificate": Certificate(names=_names(first), **times)}


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    with contextlib.suppress(x509.ExtensionNotFound):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return tuple(str(name.value) for name in names.value)
    return (certificate.subject.rfc4514_string(),)


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError:
            return False
    return True


def _mode(path: Path | None) -> int | None:
    if path is None or not os.access(path, os.R_OK):
        return None
    return stat.S_IMODE(path.stat().st_mode)
