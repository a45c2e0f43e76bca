"""What a process does with signals, as the kernel has it."""

import re
import signal
from pathlib import Path

SIGNALS = {each.value: each for each in signal.Signals}


def blocked_by(pid: int) -> set[signal.Signals]:
    """The signals that wait until the process wants them."""
    return _set_of(pid, "SigBlk")


def ignored_by(pid: int) -> set[signal.Signals]:
    return _set_of(pid, "SigIgn")


def _set_of(pid: int, field: str) -> set[signal.Signals]:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{field}:\s+([0-9a-f]+)$", status, re.MULTILINE)
    assert found is not None
    mask = int(found[1], 16)
    return {each for number, each in SIGNALS.items() if mask >> (number - 1) & 1}
