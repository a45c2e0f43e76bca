"""Checks of the machine: memory, disk, clock, and programs."""

from server.doctor.facts import GIB, Facts
from server.doctor.finding import Finding, ok, problem, skipped, warning

_DAY_S = 86_400.0

_BESIDE_THE_MODEL = 4 * GIB
"""What the processes take of the host's memory while a checkpoint passes through it."""

ENCODERS = ("libx264", "libvpx-vp9", "prores_ks", "gif")
"""The encoders of ffmpeg that the four containers of videos need."""


def host_memory(facts: Facts) -> Finding:
    """The checkpoint passes through the host's memory while it is loaded, and may wait there."""
    text = f"{facts.memory / GIB:.0f} GiB"
    if facts.is_memory_limited:
        text += ", by the limit of the container or service"
    needed = facts.checkpoint + _BESIDE_THE_MODEL
    if facts.memory >= needed:
        return ok(text)
    return warning(
        f"{text}; loading the checkpoint may take {needed / GIB:.0f} GiB.",
        "raise the limit (`docker run --memory`, Kubernetes' limits.memory, systemd's MemoryMax), "
        "or take a machine with more memory",
    )


def disk(facts: Facts) -> Finding:
    """There is room for videos."""
    if facts.settings is None:
        return skipped("the settings cannot be read")
    if facts.disk_problem is None:
        return ok(f"more than {facts.settings.min_free_disk_mib:,} MiB free")
    return problem(
        facts.disk_problem,
        "make room, or choose another disk with --data; `cosmos-serve jobs purge`",
    )


def clock(facts: Facts) -> Finding:
    """The clock is not behind: certificates and signed URLs depend on it."""
    if facts.now >= facts.installed - _DAY_S:
        return ok("later than the installation of this program")
    return problem(
        f"The clock is {(facts.installed - facts.now) / _DAY_S:.0f} days behind the time at which "
        "this program was installed.",
        "`timedatectl set-ntp true`",
    )


def encoders(facts: Facts) -> Finding:
    """ffmpeg has the encoders of the four containers, and reads a clip from a descriptor."""
    if facts.encoders_problem is not None:
        return problem(facts.encoders_problem, "`pip install --force-reinstall imageio-ffmpeg`")
    missing = [name for name in ENCODERS if name not in facts.encoders]
    if "fd" not in facts.protocols:
        missing.append("the protocol fd, by which clips are read")
    if not missing:
        return ok("ffmpeg with " + ", ".join(ENCODERS))
    return problem(
        f"ffmpeg lacks {', '.join(missing)}.",
        "unset IMAGEIO_FFMPEG_EXE: the ffmpeg that came with this program has them",
    )
