"""The checks: each a function of the facts, so that a test can show it any machine."""

from collections.abc import Callable, Sequence

from server.doctor import checkpoint_checks, gpu_checks, machine_checks, server_checks
from server.doctor.facts import Facts
from server.doctor.finding import Finding

CHECKS: Sequence[tuple[str, Callable[[Facts], Finding]]] = (
    ("settings", server_checks.settings),
    ("GPU", gpu_checks.gpu),
    ("GPU in a container", gpu_checks.capabilities),
    ("torch", gpu_checks.torch),
    ("GPU's architecture", gpu_checks.architecture),
    ("GPU's memory", gpu_checks.gpu_memory),
    ("pinned memory", gpu_checks.pinned_memory),
    ("attention", gpu_checks.attention),
    ("cuDNN", gpu_checks.cudnn),
    ("compiler", gpu_checks.compiler),
    ("caches", gpu_checks.caches),
    ("host memory", machine_checks.host_memory),
    ("checkpoint", checkpoint_checks.checkpoint),
    ("endpoints", checkpoint_checks.endpoints),
    ("checked bytes", checkpoint_checks.checked_bytes),
    ("token", checkpoint_checks.token),
    ("guardrail", server_checks.guardrail),
    ("data folder", server_checks.data_folder),
    ("database", server_checks.database),
    ("files", server_checks.files),
    ("disk", machine_checks.disk),
    ("ports", server_checks.ports),
    ("certificate", server_checks.certificate),
    ("key files", server_checks.key_files),
    ("clock", machine_checks.clock),
    ("ffmpeg", machine_checks.encoders),
    ("stop time", server_checks.stop_time),
)
"""By name, in the order in which they are shown."""


def findings(facts: Facts) -> dict[str, Finding]:
    """What each check says of a machine."""
    return {name: check(facts) for name, check in CHECKS}
