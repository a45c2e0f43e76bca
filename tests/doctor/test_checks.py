"""Each check of `cosmos-serve doctor`, shown the machines on which something is wrong."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers import settings_in

from pipeline.guardrail import GuardrailKind
from pipeline.spec import Sampler
from server.cli.doctor import OPTIONS
from server.config.errors import SettingsError
from server.config.settings import Settings
from server.doctor.checks import CHECKS, findings
from server.doctor.collect import facts_of_server
from server.doctor.facts import GIB, Certificate, Facts, Gpu, GpuProcess, Torch
from server.doctor.finding import Finding, Level
from server.doctor.machine_checks import ENCODERS
from server.fal.endpoints import Limits

NOW, DAY_S = 1_790_000_000.0, 86_400.0

H100 = Gpu(name="NVIDIA H100", capability=(9, 0), total=80 * GIB, free=79 * GIB)
B200 = Gpu(name="NVIDIA B200", capability=(10, 0), total=180 * GIB, free=179 * GIB)
A100 = Gpu(name="NVIDIA A100", capability=(8, 0), total=40 * GIB, free=39 * GIB)
RTX = Gpu(name="NVIDIA RTX 4090", capability=(8, 9), total=24 * GIB, free=23 * GIB)
V100 = Gpu(name="Tesla V100", capability=(7, 0), total=16 * GIB, free=15 * GIB)

TORCH = Torch(
    version="2.13.0",
    cuda="13.0",
    backends=("fa3", "cudnn", "native", "flash"),
    needs={"resident": 24 * GIB, "offload": 19 * GIB, "stream": 9 * GIB},
    architectures=("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"),
    gpus=(H100,),
    has_triton=True,
    has_fa3=True,
)
CERTIFICATE = Certificate(names=("fal.run",), begins=NOW - DAY_S, ends=NOW + 400 * DAY_S)


SHARED = "postgresql+psycopg://cosmos:a-password@db.internal/cosmos"


def settings(**changes: Any) -> Settings:
    return Settings(weights=Path("checkpoint"), **changes)


BASE = Limits(1280, 704)

WELL = Facts(
    settings=settings(),
    driver="580.65.06",
    gpu_files=("/dev/nvidia0",),
    torch=TORCH,
    compiler="/usr/bin/gcc",
    has_python_header=True,
    memory=64 * GIB,
    checkpoint=18 * GIB,
    pulled_commit="0d37",
    pinned_commit="0d37",
    data_place="of uid 1000, on ext4",
    limits=BASE,
    now=NOW,
    installed=NOW - DAY_S,
    encoders=frozenset({*ENCODERS, "libx265"}),
    protocols=frozenset({"fd", "file"}),
)
"""A machine on which a server works."""

TLS = {"tls_cert": Path("cert.pem"), "tls_key": Path("key.pem"), "tls_port": 8443}


def gpus(*found: Gpu, **changes: Any) -> dict[str, Any]:
    return {"torch": replace(TORCH, gpus=found, **changes)}


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    # check, facts, level, what the line says
    ("settings", {"settings_problem": "COSMOS_PROT is not a setting."}, "problem", "COSMOS_PROT"),
    ("GPU", {"gpu_files": ()}, "warning", "no NVIDIA GPU.*on the CPU.*nvidia-smi"),
    (
        "GPU",
        {"gpu_files": (), "is_container": True, "settings": settings(devices="all")},
        "problem",
        r"container.*--gpus all.*nvidia-ctk runtime configure",
    ),
    ("GPU", {"driver": None}, "problem", r"/dev/nvidia0 is here.*modprobe nvidia"),
    ("GPU", {"devices_problem": "--devices 3 asks for GPU 3."}, "problem", "GPU 3.*nvidia-smi -L"),
    ("GPU", {"settings": settings(devices="cpu"), "gpu_files": ()}, "skipped", "cpu"),
    ("GPU", {"settings": settings(devices="cpu+cpu"), "gpu_files": ()}, "skipped", "cpu"),
    ("GPU", {"settings": settings(pool="ray"), "gpu_files": ()}, "skipped", "elsewhere"),
    (
        "GPU in a container",
        {"settings": settings(NVIDIA_DRIVER_CAPABILITIES="utility,video")},
        "problem",
        "leaves out compute",
    ),
    (
        "GPU in a container",
        {"settings": settings(NVIDIA_DRIVER_CAPABILITIES="compute,utility")},
        "ok",
        "compute",
    ),
    ("torch", {"torch": None, "torch_problem": "no answer"}, "problem", "no answer.*pip install"),
    ("torch", {"torch": Torch(version="2.13.0+cpu", cuda=None)}, "problem", "built for the CPU"),
    ("torch", {"driver": "570.124.06"}, "problem", r"570\.124\.06.*CUDA 13\.0 needs 580\.65\.06"),
    ("torch", {"driver": "580.9", **gpus(H100)}, "problem", r"needs 580\.65\.06"),
    ("torch", {"driver": "570.1", **gpus(H100, cuda="12.8")}, "ok", r"CUDA 12\.8: NVIDIA H100"),
    ("torch", gpus(problem="CUDA unknown error"), "problem", "does not see.*unknown error"),
    ("GPU's architecture", gpus(V100), "problem", r"not built for Tesla V100 \(sm_70\)"),
    ("GPU's architecture", gpus(RTX, A100), "ok", "sm_89, sm_80"),
    ("GPU's architecture", gpus(H100, architectures=("sm_90a",)), "ok", "sm_90"),
    ("GPU's architecture", gpus(B200, architectures=("sm_90a",)), "problem", "sm_100"),
    ("GPU's architecture", gpus(B200, architectures=("compute_90",)), "ok", "sm_100"),
    (
        "GPU's memory",
        {"gpu_processes": (GpuProcess(pid=7, name="vllm", held=60 * GIB),)},
        "warning",
        r"vllm \(process 7, 60\.0 GiB\).*kill 7",
    ),
    (
        "GPU's memory",
        {"gpu_processes": (GpuProcess(pid=7, name="Xorg", held=GIB // 4),)},
        "ok",
        "79 of 80 GiB free; the memory plan resident wants 24.0 GiB",
    ),
    ("GPU's memory", gpus(RTX), "ok", "23 of 24 GiB free; the memory plan offload wants 19.0"),
    (
        "GPU's memory",
        gpus(replace(RTX, free=8 * GIB)),
        "problem",
        "plan stream wants 9.0.*--memory",
    ),
    (
        "GPU's memory",
        {"settings": settings(memory="resident"), **gpus(RTX)},
        "problem",
        "plan resident wants 24.0 GiB.*--memory auto",
    ),
    (
        "GPU's memory",
        {
            "gpu_processes": (GpuProcess(pid=7, name="vllm", held=20 * GIB),),
            **gpus(replace(RTX, free=3 * GIB)),
        },
        "problem",
        "plan stream wants.*held by vllm.*kill 7",
    ),
    (
        "pinned memory",
        gpus(H100, pinning_problem="CUDA error: out of memory"),
        "warning",
        r"out of memory.*offload and stream.*ulimit -l unlimited.*memlock=-1.*LimitMEMLOCK",
    ),
    ("attention", gpus(H100, has_fa3=False), "warning", r"cosmos-serve\[fa3\]"),
    ("attention", gpus(B200), "ok", "not used"),
    ("attention", {"settings": settings(attention="fa4")}, "problem", "no.*fa4.*auto, fa3, cudnn"),
    (
        "attention",
        {"settings": settings(attention="fa3"), **gpus(B200)},
        "problem",
        "runs on Hopper alone",
    ),
    (
        "attention",
        {"settings": settings(attention="fa3"), **gpus(H100, has_fa3=False)},
        "problem",
        "is not installed",
    ),
    (
        "attention",
        {"settings": settings(attention="flash", devices="cpu"), **gpus()},
        "problem",
        "flash needs a GPU",
    ),
    ("attention", {"settings": settings(attention="native")}, "ok", "native"),
    (
        "cuDNN",
        gpus(H100, cudnn_problem="cuDNN 9.10.2 (/usr/lib/libcudnn.so.9) is older than 9.15.0"),
        "problem",
        r"/usr/lib/libcudnn\.so\.9.*LD_LIBRARY_PATH",
    ),
    ("cuDNN", {"gpu_files": ()}, "skipped", "GPU"),
    ("compiler", {"compiler": None}, "warning", "a C compiler is missing.*gcc python3-dev"),
    (
        "compiler",
        {"compiler": None, "has_python_header": False},
        "warning",
        r"a C compiler and Python\.h are missing",
    ),
    ("compiler", gpus(H100, has_triton=False), "warning", "Triton is not installed"),
    ("caches", {"caches_problem": "data/compiled belongs to uid 0."}, "warning", "uid 0.*remove"),
    (
        "host memory",
        {"memory": 16 * GIB, "is_memory_limited": True},
        "warning",
        "16 GiB, by the limit.*22 GiB.*docker run --memory",
    ),
    (
        "checkpoint",
        {"checkpoint_problem": "vae is missing."},
        "problem",
        "weights pull checkpoint.*weights verify checkpoint",
    ),
    (
        "checkpoint",
        {"checkpoint_problem": "vae is missing.", "is_pulled_at_start": True},
        "warning",
        "start fetches it, by COSMOS_PULL",
    ),
    (
        "token",
        {"checkpoint_problem": "vae is missing.", "is_pulled_at_start": True},
        "problem",
        "gated.*HF_TOKEN",
    ),
    ("checked bytes", {"pulled_commit": None}, "warning", "No record.*weights pull checkpoint"),
    ("checked bytes", {"pulled_commit": None, "is_published": False}, "skipped", "not NVIDIA's"),
    ("checked bytes", {"pulled_commit": "8b5a"}, "warning", "commit 8b5a.*made for 0d37"),
    ("checked bytes", {"pulled_problem": "No listing."}, "problem", "No listing.*weights pull"),
    ("checked bytes", {"checkpoint_problem": "vae is missing."}, "skipped", "not whole"),
    ("token", {"checkpoint_problem": "vae is missing."}, "warning", "gated.*HF_TOKEN"),
    ("token", {"checkpoint_problem": "vae is missing.", "has_token": True}, "ok", "finds one"),
    ("endpoints", {"limits": None}, "skipped", "not whole"),
    ("endpoints", {"limits": BASE}, "ok", "distilled/text-to-video answers 404.*no distilled"),
    (
        "endpoints",
        {"limits": replace(BASE, samplers=frozenset({Sampler.TRIGFLOW}))},
        "warning",
        "image-to-video.*answer 404.*no base checkpoint",
    ),
    ("guardrail", {"checkpoint_problem": "vae is missing."}, "skipped", "not whole"),
    ("guardrail", {"guardrail_problem": "It requires one."}, "problem", "It requires one"),
    ("guardrail", {"guardrail": GuardrailKind.NONE}, "ok", "requires none"),
    (
        "guardrail",
        {"guardrail": GuardrailKind.ENDPOINT, "settings": settings(guardrail="http://10.0.0.1/m")},
        "ok",
        "http://10.0.0.1/m gives verdicts",
    ),
    ("guardrail", {"guardrail": GuardrailKind.REQUIRED}, "ok", "prompts and for pictures"),
    (
        "guardrail",
        {"guardrail": GuardrailKind.REQUIRED, "is_pulled_at_start": True},
        "warning",
        "model for prompts is not here.*start fetches it, by COSMOS_PULL",
    ),
    ("guardrail", {"guardrail": GuardrailKind.TEXT}, "warning", "reads prompts only"),
    ("guardrail", {"guardrail": GuardrailKind.OFF}, "warning", "for you to judge"),
    ("data folder", {"data_problem": "It belongs to uid 0."}, "problem", "uid 0"),
    (
        "database",
        {"settings": settings(database=SHARED), "database_problem": "It is away."},
        "problem",
        "It is away.*docs/cluster.md",
    ),
    ("database", {"settings": settings(database=SHARED)}, "ok", "PostgreSQL answers"),
    (
        "files",
        {"settings": settings(files="s3://videos"), "files_problem": "It is away."},
        "problem",
        "It is away.*docs/cluster.md",
    ),
    ("files", {"settings": settings(files="s3://videos")}, "ok", "s3://videos can be written"),
    ("data folder", {"data_user": "Another server uses it."}, "ok", "used by a server"),
    ("disk", {"disk_problem": "5 MiB left."}, "problem", "5 MiB left.*jobs purge"),
    ("ports", {"busy_ports": (8000,)}, "problem", r"Port 8000 of 127\.0\.0\.1.*ss -ltnp"),
    ("ports", {"listen_problem": "Permission denied."}, "problem", "denied.*below 1024"),
    ("ports", {"busy_ports": (8000,), "data_user": "Another server uses it."}, "ok", "in use"),
    (
        "certificate",
        {"settings": settings(**TLS), "certificate_problem": "It does not fit."},
        "problem",
        "does not fit.*certs DIR",
    ),
    (
        "certificate",
        {"settings": settings(**TLS), "certificate": replace(CERTIFICATE, ends=NOW)},
        "problem",
        "ended on 2026-09-21",
    ),
    (
        "certificate",
        {"settings": settings(**TLS), "certificate": replace(CERTIFICATE, ends=NOW + DAY_S)},
        "warning",
        "ends on 2026-09-22",
    ),
    (
        "certificate",
        {"settings": settings(**TLS), "certificate": replace(CERTIFICATE, begins=NOW + 1)},
        "problem",
        "to come by this clock",
    ),
    ("certificate", {"settings": settings(**TLS), "certificate": CERTIFICATE}, "ok", "fal.run"),
    (
        "certificate",
        {
            "settings": settings(**TLS, public_url="https://videos.example.com"),
            "certificate": CERTIFICATE,
        },
        "warning",
        r"as videos\.example\.com.*for fal\.run.*--host videos\.example\.com",
    ),
    (
        "certificate",
        {
            "settings": settings(**TLS, public_url="https://videos.example.com"),
            "certificate": replace(CERTIFICATE, names=("*.example.com",)),
        },
        "ok",
        "example",
    ),
    (
        "key files",
        {"settings": settings(key_file=Path("key")), "key_file_mode": 0o644},
        "warning",
        "mode 0644.*chmod 600 key",
    ),
    ("key files", {"settings": settings(key_file=Path("key"))}, "problem", "cannot be read"),
    (
        "key files",
        {"settings": settings(**TLS), "tls_key_mode": 0o644},
        "warning",
        "mode 0644.*chmod 640 key.pem",
    ),
    ("key files", {"settings": settings(**TLS), "tls_key_mode": 0o640}, "ok", "key.pem"),
    ("clock", {"installed": NOW + 30 * DAY_S}, "problem", "30 days behind.*set-ntp"),
    ("ffmpeg", {"encoders": frozenset({"gif"})}, "problem", "lacks libx264, libvpx-vp9"),
    ("ffmpeg", {"protocols": frozenset({"file"})}, "problem", "lacks the protocol fd"),
    ("ffmpeg", {"encoders_problem": "ffmpeg does not run."}, "problem", "does not run"),
    ("stop time", {"settings": settings(drain_seconds=60)}, "warning", "--stop-timeout 70"),
]


@pytest.mark.parametrize(
    ("check", "changes", "level", "words"), WRONG, ids=[f"{row[0]}: {row[3]}" for row in WRONG]
)
def test_what_is_wrong_is_named_with_what_mends_it(
    check: str, changes: dict[str, Any], level: str, words: str
) -> None:
    found = findings(replace(WELL, **changes))[check]

    assert found.level == level
    assert re.search(words, f"{found.text} {found.mend}"), found


def test_on_a_machine_where_all_is_well_no_check_says_otherwise() -> None:
    assert {each.level for each in findings(WELL).values()} == {Level.OK, Level.SKIPPED}


def test_without_settings_the_checks_of_the_machine_are_made_all_the_same() -> None:
    found = findings(replace(WELL, settings=None, settings_problem="It is not set."))

    assert found["settings"].level is Level.PROBLEM
    assert found["torch"].level is found["ffmpeg"].level is Level.OK
    assert found["data folder"].level is found["ports"].level is Level.SKIPPED


def test_every_check_is_shown_something_wrong() -> None:
    shown = {check for check, _, level, _ in WRONG if level in ("warning", "problem")}
    assert shown == {name for name, _ in CHECKS}


OF_OPTIONS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    # option: its value, other settings, and facts of the machine
    "data": (Path("another"), {}, {}),
    "any_filesystem": (True, {"data": Path("/proc/data")}, {}),
    "host": ("192.0.2.1", {}, {}),
    "port": (1, {"port": 0}, {}),
    "tls_cert": (Path("another.pem"), TLS, {}),
    "tls_key": (Path("another.pem"), TLS, {}),
    "tls_port": (1, TLS, {}),
    "public_url": ("https://videos.example", TLS, {"certificate": CERTIFICATE}),
    "forwarded_allow_ips": ("10.0.0.1", {}, {}),
    "weights": (Path("another"), {}, {}),
    "pull": (True, {"weights": Path("another")}, {}),
    "devices": ("cpu", {"devices": ""}, {}),
    "guardrail": ("off", {}, {}),
    "guardrail_key_file": (Path("no-key"), {"guardrail": "http://127.0.0.1:9/"}, {}),
    "attention": ("fa4", {}, {}),
    "memory": ("resident", {}, gpus(RTX)),
}


def found_with(folder: Path, facts: dict[str, Any], **changes: Any) -> dict[str, Finding]:
    """What all checks but that of the settings say."""
    try:
        told = settings_in(folder, **changes)
    except SettingsError as error:
        machine = replace(WELL, settings=None, settings_problem=str(error))
    else:
        machine = replace(WELL, **{"settings": told, **facts_of_server(told), **facts})
    return {name: each for name, each in findings(machine).items() if name != "settings"}


def test_doctor_takes_those_options_that_a_check_reads() -> None:
    assert set(OPTIONS) == OF_OPTIONS.keys()


@pytest.mark.parametrize("name", OF_OPTIONS)
def test_each_option_changes_what_is_found(name: str, tmp_path: Path) -> None:
    value, others, facts = OF_OPTIONS[name]
    before, after = others, others | {name: value}
    assert found_with(tmp_path, facts, **before) != found_with(tmp_path, facts, **after)
