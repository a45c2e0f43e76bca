"""Look at this machine: every fact that the checks ask for."""

import asyncio
import contextlib
import errno
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
from pipeline.ffmpeg import encoders, protocols
from pipeline.guardrail import GuardrailMissing, guardrail_kind
from server.config.errors import SettingsError
from server.config.settings import Settings
from server.data_folder import (
    DataFolderError,
    check_access,
    check_is_free,
    check_is_local,
    compiled_in,
    filesystem_of,
)
from server.db.upgrade import UnknownSchema
from server.disk import DiskSpace
from server.doctor.facts import MIB, Certificate, Facts, Gpu, GpuProcess, Torch
from server.errors import FilesAway, Shortage
from server.fal.endpoints import Limits
from server.files.local import LocalFiles
from server.files.opening import open_files
from server.outbound.moderation import Moderation
from server.workers.devices import DeviceError, devices_from
from server.workers.pulling_pool import CheckpointPull
from weights.checkpoint_profile import PROFILE_FILE
from weights.checkpoints import folders_in, open_checkpoints
from weights.errors import CheckpointError, CheckpointIncomplete
from weights.listing import RECORD, read_listing
from weights.manifest import load_manifest

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
        **_torch(settings),
        **_memory(),
        **_encoders(),
    }
    if settings is not None:
        found |= facts_of_server(settings)
    return Facts(**found)


# -- the GPU ------------------------------------------------------------------------------------


def _driver(path: Path = Path("/proc/driver/nvidia/version")) -> dict[str, Any]:
    """NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  ..."""
    with contextlib.suppress(OSError):
        version = re.search(r"\s(\d+(\.\d+)+)\s", path.read_text())
        return {"driver": version[1] if version else None}
    return {}


def _torch(settings: Settings | None) -> dict[str, Any]:
    weights = None if settings is None else str(settings.weights)
    try:
        asked = subprocess.run(
            python_command("pipeline.torch_facts", {"weights": weights}),
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
    architectures, backends = (tuple(facts.pop(name, ())) for name in ("architectures", "backends"))
    return {"torch": Torch(**facts, gpus=gpus, architectures=architectures, backends=backends)}


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
        return {"encoders": encoders(), "protocols": protocols()}
    except EncodingFailed as error:
        return {"encoders_problem": str(error)}


# -- the server ---------------------------------------------------------------------------------


def facts_of_server(settings: Settings) -> dict[str, Any]:
    """Those facts that follow from the settings."""
    return {
        **_devices(settings),
        **_checkpoint(settings),
        **_pulled(settings),
        **_data_folder(settings),
        **_database(settings),
        **_files(settings),
        **_certificate(settings),
        **_ports(settings),
        "key_file_mode": _mode(settings.key_file),
        "tls_key_mode": _mode(settings.tls_key),
    }


def _database(settings: Settings) -> dict[str, Any]:
    if settings.database is None:
        return {}
    from server.db.postgres import check_postgres

    try:
        check_postgres(settings.database)
    except (Shortage, UnknownSchema, ModuleNotFoundError) as error:
        return {"database_problem": str(error)}
    return {}


def _files(settings: Settings) -> dict[str, Any]:
    if settings.files is None:
        return {}
    try:
        files = open_files(settings.files, settings.data)
        if not isinstance(files, LocalFiles):
            files.check()
    except SettingsError as error:
        return {"files_problem": f"{error}."}
    except FilesAway as away:
        return {"files_problem": away.sentence}
    return {}


def _devices(settings: Settings) -> dict[str, Any]:
    try:
        devices_from(settings.devices, settings.cuda_visible_devices)
    except DeviceError as error:
        return {"devices_problem": str(error)}
    return {}


def _pulled(settings: Settings) -> dict[str, Any]:
    """What `weights pull` recorded."""
    # Of several checkpoints, the first.
    folder = next(iter(folders_in(str(settings.weights))), settings.weights)
    found: dict[str, Any] = {
        "is_published": not (folder / PROFILE_FILE).exists(),
        "pinned_commit": load_manifest().commit,
    }
    try:
        found["pulled_commit"] = read_listing(folder / RECORD).commit
    except CheckpointIncomplete:
        pass
    except CheckpointError as error:
        found["pulled_problem"] = str(error)
    return found


def _checkpoint(settings: Settings) -> dict[str, Any]:
    try:
        stores = open_checkpoints(str(settings.weights))
    except CheckpointError as error:
        from weights.download import has_token

        return {
            "checkpoint_problem": str(error),
            "is_pulled_at_start": _is_pulled_at_start(settings),
            "has_token": has_token(),
        }
    files = [file for store in stores for file in store.root.rglob("*.safetensors")]
    size = sum(file.stat().st_size for file in files)
    found = {"checkpoint": size, "limits": Limits.of(*(store.profile for store in stores))}
    profiles = {store.root: store.profile for store in stores}
    is_fetched = _is_pulled_at_start(settings)
    try:
        kind = guardrail_kind(profiles, settings.guardrail, is_fetched=is_fetched)
    except GuardrailMissing as error:
        return {**found, "guardrail_problem": str(error)}
    found["is_pulled_at_start"] = is_fetched
    return {**found, "guardrail": kind, "guardrail_problem": _of_endpoint(settings)}


def _of_endpoint(settings: Settings) -> str | None:
    """Why the guardrail's endpoint gives no verdicts; None if it does, or there is none."""
    moderation = Moderation.from_settings(settings)
    if moderation is None:
        return None
    asyncio.run(moderation.probe())
    return moderation.problem


def _is_pulled_at_start(settings: Settings) -> bool:
    # What is wrong with the hub's settings is said by the start.
    with contextlib.suppress(SettingsError):
        return CheckpointPull.wanted_by(settings) is not None
    return False


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
    kind = filesystem_of(there, Path("/proc/self/mountinfo").read_text())
    return {
        "data_problem": problem,
        "data_place": f"of uid {there.stat().st_uid}, on {kind or 'an unknown file system'}",
        "caches_problem": _caches_problem(folder),
        "data_user": _said_by(lambda: check_is_free(folder)),
        "disk_problem": DiskSpace(there, settings.min_free_disk_mib).problem(),
    }


def _caches_problem(folder: Path) -> str | None:
    for cache in (compiled_in(folder), compiled_in(folder) / "triton"):
        if cache.exists() and not os.access(cache, os.R_OK | os.W_OK | os.X_OK):
            return (
                f"{cache} belongs to uid {cache.stat().st_uid}, and uid {os.geteuid()} may not "
                "write it: kernels cannot be compiled."
            )
    return None


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


def _ports(settings: Settings) -> dict[str, Any]:
    busy = []
    for port in filter(None, (settings.port, settings.tls_port)):
        try:
            _bind(settings.host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                where = f"{settings.host} port {port}"
                return {"listen_problem": f"Cannot listen on {where}: {error.strerror or error}."}
            busy.append(port)
    return {"busy_ports": tuple(busy)}


def _bind(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))


def _mode(path: Path | None) -> int | None:
    if path is None or not os.access(path, os.R_OK):
        return None
    return stat.S_IMODE(path.stat().st_mode)
