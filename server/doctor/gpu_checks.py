"""Checks of the GPU, its driver, and what computes on it."""

from collections.abc import Sequence

from server.doctor.facts import GIB, Facts, Gpu, GpuProcess
from server.doctor.finding import Finding, ok, problem, skipped, warning

# By CUDA's release notes: an older driver runs no program that was built for this CUDA.
_DRIVER_FOR_CUDA = {"13": "580.65.06", "12": "525.60.13"}

_MUCH = GIB
"""What another process may hold of a GPU without a word."""


def _devices(facts: Facts) -> set[str]:
    setting = "" if facts.settings is None else facts.settings.devices
    return {device.strip() for device in setting.replace("+", ",").split(",")}


def _works_on_cpu(facts: Facts) -> bool:
    return _devices(facts) == {"cpu"}


def _asks_for_gpu(facts: Facts) -> bool:
    """Without it the server would go on on the CPU."""
    return not _devices(facts) <= {"", "cpu"}


def _works_elsewhere(facts: Facts) -> bool:
    """Other servers run the jobs, or the nodes of a cluster."""
    return facts.settings is not None and (
        facts.settings.role == "api" or facts.settings.pool == "ray"
    )


def _has_gpu(facts: Facts) -> bool:
    return bool(facts.gpu_files) and not _works_on_cpu(facts) and not _works_elsewhere(facts)


def gpu(facts: Facts) -> Finding:
    """A GPU and its driver are here."""
    if _works_elsewhere(facts):
        return skipped("not needed: jobs run elsewhere, by COSMOS_ROLE or COSMOS_POOL")
    if _works_on_cpu(facts):
        return skipped("not needed: the devices are set to cpu")
    if facts.gpu_files and facts.devices_problem is not None:
        return problem(facts.devices_problem, "`nvidia-smi -L` lists the GPUs")
    if facts.gpu_files and facts.driver is not None:
        count = len(facts.gpu_files)
        return ok(f"{count} GPU{'' if count == 1 else 's'}, driver {facts.driver}")
    if facts.gpu_files:
        return problem(
            f"{facts.gpu_files[0]} is here, and NVIDIA's driver is not loaded.",
            "load it with `modprobe nvidia`, or install it; `nvidia-smi` must list the GPU",
        )
    level, instead = (
        (problem, "") if _asks_for_gpu(facts) else (warning, " The server would work on the CPU.")
    )
    if facts.is_container:
        return level(
            f"This container sees no GPU.{instead}",
            "start it with `docker run --gpus all`; if Docker then names no driver with "
            "capabilities [[gpu]], install nvidia-container-toolkit, run `nvidia-ctk runtime "
            "configure --runtime=docker` and restart Docker; COSMOS_DEVICES=cpu works without one",
        )
    return level(
        facts.devices_problem or f"This machine shows no NVIDIA GPU.{instead}",
        "install NVIDIA's driver, until `nvidia-smi` lists the GPU; COSMOS_DEVICES=cpu works "
        "without one",
    )


def capabilities(facts: Facts) -> Finding:
    """The container may compute on its GPU."""
    given = facts.settings and facts.settings.nvidia_driver_capabilities
    if not given:
        return skipped("NVIDIA_DRIVER_CAPABILITIES is not set")
    if {"all", "compute"} & {each.strip() for each in given.split(",")}:
        return ok(f"NVIDIA_DRIVER_CAPABILITIES={given}")
    return problem(
        f"NVIDIA_DRIVER_CAPABILITIES={given} leaves out compute: CUDA is not in this container.",
        "start it with `-e NVIDIA_DRIVER_CAPABILITIES=compute,utility`",
    )


def torch(facts: Facts) -> Finding:
    """torch can be imported, and uses the GPU."""
    found = facts.torch
    if found is None:
        return problem(
            f"torch cannot be used: {facts.torch_problem}",
            "install this program again in a fresh environment: `pip install cosmos-serve`",
        )
    if not _has_gpu(facts):
        return ok(f"torch {found.version}")
    if found.cuda is None:
        return problem(
            f"torch {found.version} was built for the CPU, and there is a GPU.",
            "`pip install --force-reinstall torch`",
        )
    needed = _DRIVER_FOR_CUDA.get(found.cuda.partition(".")[0])
    if needed and facts.driver and _numbers(facts.driver) < _numbers(needed):
        return problem(
            f"The driver is {facts.driver}, and torch {found.version} with CUDA {found.cuda} "
            f"needs {needed} or later.",
            "update the driver, or install torch for an older CUDA from its index",
        )
    if not found.gpus:
        return problem(
            f"torch {found.version} does not see the GPU: {found.problem or 'it does not say why'}",
            "see that `nvidia-smi` lists it, and that CUDA_VISIBLE_DEVICES is not empty",
        )
    return ok(f"torch {found.version}, CUDA {found.cuda}: {_names(found.gpus)}")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _names(gpus: tuple[Gpu, ...]) -> str:
    return ", ".join(gpu.name for gpu in gpus)


def architecture(facts: Facts) -> Finding:
    """torch was built for this kind of GPU."""
    if facts.torch is None or not facts.torch.gpus:
        return skipped("torch sees no GPU")
    built = facts.torch.architectures
    for gpu in facts.torch.gpus:
        if not any(_runs_on(architecture, gpu.capability) for architecture in built):
            major, minor = gpu.capability
            return problem(
                f"torch {facts.torch.version} was not built for {gpu.name} (sm_{major}{minor}), "
                f"but for {', '.join(built)}.",
                "install a torch that was: one for an older CUDA if the GPU is old, a newer one "
                "if it is new",
            )
    return ok(", ".join(dict.fromkeys(f"sm_{a}{b}" for a, b in _capabilities(facts))))


def _capabilities(facts: Facts) -> list[tuple[int, int]]:
    return [gpu.capability for gpu in facts.torch.gpus] if facts.torch else []


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Machine code runs on later GPUs of its generation, PTX on all later ones."""
    kind, _, number = architecture.partition("_")
    digits = "".join(filter(str.isdigit, number))
    if not digits:
        return False
    built = int(digits[:-1]), int(digits[-1])
    if kind == "compute":
        return built <= capability
    if not number.isdigit():  # such as sm_90a, which runs on no other
        return built == capability
    return built[0] == capability[0] and built <= capability


def gpu_memory(facts: Facts) -> Finding:
    """A memory plan fits, and nobody else holds the GPU's memory."""
    if facts.torch is None or not facts.torch.gpus:
        return skipped("torch sees no GPU")
    text = ", ".join(
        f"{gpu.free / GIB:.0f} of {gpu.total / GIB:.0f} GiB free" for gpu in facts.torch.gpus
    )
    plan, fits = _plan(facts)
    if plan is not None:
        needed = facts.torch.needs[plan] / GIB
        text += f"; the memory plan {plan} wants {needed:.1f} GiB for the longest video"
    holders = [each for each in facts.gpu_processes if each.held > _MUCH]
    if holders:
        named = ", ".join(
            f"{each.name} (process {each.pid}, {each.held / GIB:.1f} GiB)" for each in holders
        )
        text += f"; held by {named}"
    mend = (
        f"if it is no server of yours that is to go on: `kill {_pids(holders)}`"
        if holders
        else "choose --memory auto, or a GPU with more memory"
    )
    if not fits:
        return problem(f"{text}.", mend)
    return warning(f"{text}.", mend) if holders else ok(text)


def _plan(facts: Facts) -> tuple[str | None, bool]:
    """The memory plan that a worker would follow, if that is known, and whether it fits."""
    if facts.torch is None or not facts.torch.needs or facts.settings is None:
        return None, True
    free = min(gpu.free for gpu in facts.torch.gpus)
    fitting = [plan for plan, needed in facts.torch.needs.items() if needed <= free]
    asked = facts.settings.memory
    if asked != "auto":
        return asked, asked in fitting
    return (fitting or list(facts.torch.needs))[0 if fitting else -1], bool(fitting)


def _pids(processes: Sequence[GpuProcess]) -> str:
    return " ".join(str(each.pid) for each in processes)


def pinned_memory(facts: Facts) -> Finding:
    """The GPU can copy from memory of the host by itself."""
    if facts.torch is None or not facts.torch.gpus:
        return skipped("torch sees no GPU")
    if facts.torch.pinning_problem is None:
        return ok("host memory can be pinned")
    return warning(
        f"Host memory cannot be pinned ({facts.torch.pinning_problem}): with the memory "
        "plans offload and stream, the text model is copied more slowly.",
        "`ulimit -l unlimited`, `docker run --ulimit memlock=-1`, or systemd's "
        "LimitMEMLOCK=infinity",
    )


def compiler(facts: Facts) -> Finding:
    """Triton can compile its kernels."""
    if not _has_gpu(facts):
        return skipped("needed for a GPU alone")
    lost = "kernels that save time are not used"
    if facts.torch is not None and not facts.torch.has_triton:
        return warning(f"Triton is not installed: {lost}.", "`pip install triton`")
    missing = [
        *([] if facts.compiler else ["a C compiler"]),
        *([] if facts.has_python_header else [facts.python_header]),
    ]
    if not missing:
        return ok(f"{facts.compiler} and {facts.python_header}")
    return warning(
        f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing: {lost}.",
        "`apt-get install gcc python3-dev`",
    )


def caches(facts: Facts) -> Finding:
    """What was compiled can be kept for the next start."""
    if not _has_gpu(facts):
        return skipped("needed for a GPU alone")
    if facts.caches_problem is None:
        return ok("what is compiled is kept in the data folder")
    return warning(facts.caches_problem, "remove that folder as its owner: it is made again")


def cudnn(facts: Facts) -> Finding:
    """The cuDNN that torch loads convolves as it should."""
    if facts.torch is None or not _has_gpu(facts):
        return skipped("needed for a GPU alone")
    if facts.torch.cudnn_problem is None:
        return ok("the one that torch loads is recent enough")
    return problem(
        f"{facts.torch.cudnn_problem}.",
        "take it out of LD_LIBRARY_PATH, or `pip install --force-reinstall torch`",
    )


def attention(facts: Facts) -> Finding:
    """The attention backend that is asked for runs here, and the fastest is installed."""
    if facts.torch is None:
        return skipped("torch cannot be used")
    asked = "auto" if facts.settings is None else facts.settings.attention
    if asked not in ("auto", *facts.torch.backends):
        known = ", ".join(facts.torch.backends)
        return problem(f"There is no attention backend {asked}.", f"say auto, {known}")
    if not _capabilities(facts):
        if asked not in ("auto", "native") and not _has_gpu(facts):
            return problem(f"The attention backend {asked} needs a GPU.", "leave out --attention")
        return skipped("torch sees no GPU")
    hopper = [capability == (9, 0) for capability in _capabilities(facts)]
    if asked == "fa3" and not (all(hopper) and facts.torch.has_fa3):
        why = "is not installed" if all(hopper) else "runs on Hopper alone"
        return problem(f"FlashAttention-3 {why}, and --attention fa3 wants it.", "--attention auto")
    if asked != "auto":
        return ok(f"{asked}, as asked for")
    is_hopper = any(hopper)
    if is_hopper and not facts.torch.has_fa3:
        return warning(
            "FlashAttention-3 is not installed, which is the fastest on this GPU.",
            "`pip install 'cosmos-serve[fa3]'`",
        )
    if facts.torch.has_fa3 and not is_hopper:
        return ok("FlashAttention-3 is installed and not used: it is for Hopper alone")
    return ok("FlashAttention-3" if is_hopper else "torch's own attention")
