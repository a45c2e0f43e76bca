"""What was found on a machine: values alone, so that a test can make any machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.guardrail import GuardrailKind
from server.config.settings import Settings
from server.fal.endpoints import Limits

MIB = 1024**2
GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU that torch sees; sizes are in bytes."""

    name: str
    capability: tuple[int, int]
    total: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Torch:
    """What torch says of itself and of its GPUs."""

    version: str
    cuda: str | None
    """The CUDA that it was built for; None if it was built for the CPU."""

    problem: str | None = None
    """Why it cannot use CUDA, in its own words."""

    architectures: tuple[str, ...] = ()
    """What it was built for, such as `sm_90`, or `compute_90` for all from there on."""

    gpus: tuple[Gpu, ...] = ()
    cudnn_problem: str | None = None
    """What is wrong with the cuDNN that it loaded; no full stop, because a remedy may follow."""

    has_triton: bool = False
    has_fa3: bool = False
    backends: tuple[str, ...] = ()
    """The attention backends that there are, whether they run here or not."""

    needs: Mapping[str, int] = field(default_factory=dict)
    """What each memory plan wants free on the GPU; nothing if the checkpoint cannot be read."""

    pinning_problem: str | None = None
    """Why host memory cannot be pinned, in torch's words; None also where there is no GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process that holds memory of a GPU."""

    pid: int
    name: str
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A TLS certificate, and the times between which it is valid, in Unix seconds."""

    names: tuple[str, ...]
    begins: float
    ends: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A machine, and the settings of a server on it. Sizes are in bytes, times in Unix seconds.

    A name that ends in `problem` is a sentence, or None if there is no problem.
    """

    settings: Settings | None = None
    settings_problem: str | None = None
    is_container: bool = False

    driver: str | None = None
    """The version of NVIDIA's driver; None if none is loaded."""

    gpu_files: tuple[str, ...] = ()
    """Such as `/dev/nvidia0`."""

    torch: Torch | None = None
    torch_problem: str | None = None
    gpu_processes: tuple[GpuProcess, ...] = ()
    devices_problem: str | None = None

    compiler: str | None = None
    python_header: str = "Python.h"
    has_python_header: bool = False

    memory: int = 0
    """What this process may have of the host's memory: by the machine, or by its cgroup."""

    is_memory_limited: bool = False
    """It is the cgroup that says so."""

    checkpoint_problem: str | None = None
    checkpoint: int = 0
    """The size of its files."""

    is_published: bool = True
    """It is NVIDIA's checkpoint, and not one that says what it is in a file of its own."""

    pulled_commit: str | None = None
    """The commit of which every byte was checked when it was fetched; None if none was."""

    pulled_problem: str | None = None
    pinned_commit: str = ""
    """The commit that this release is made for."""

    is_pulled_at_start: bool = False
    """The server's start would fetch what is missing of checkpoint and guardrail."""

    has_token: bool = False
    """The Hugging Face Hub's library finds a token."""
    limits: Limits | None = None
    """What the checkpoints can do together; None if they are not whole."""

    guardrail: GuardrailKind | None = None
    guardrail_problem: str | None = None
    data_problem: str | None = None
    data_user: str | None = None
    """The server that uses the data folder, as a sentence."""

    data_place: str | None = None
    """Whose the data folder is, and on what."""

    database_problem: str | None = None
    """Why the database of PostgreSQL cannot be used; None also where it is SQLite."""

    files_problem: str | None = None
    """Why the bucket of S3 cannot be used; None also where files are in the data folder."""

    caches_problem: str | None = None

    disk_problem: str | None = None
    busy_ports: tuple[int, ...] = ()
    listen_problem: str | None = None
    """Why it cannot listen, where that is no other program."""
    certificate: Certificate | None = None
    certificate_problem: str | None = None
    key_file_mode: int | None = None
    tls_key_mode: int | None = None
    now: float = 0.0
    installed: float = 0.0
    """When this program was installed."""

    encoders: frozenset[str] = field(default_factory=frozenset)
    protocols: frozenset[str] = field(default_factory=frozenset)
    encoders_problem: str | None = None
