"""Where a loaded model is while no stage uses it. No torch here: the server shows the plan, too."""

from enum import StrEnum
from typing import Literal


class MemoryPlan(StrEnum):
    """Where the modules wait. The plans differ in nothing else: both give the same bytes."""

    RESIDENT = "resident"
    """All modules stay on the device."""
    OFFLOAD = "offload"
    """They wait in host memory, and each is on the device for its stage only."""


MemoryChoice = Literal["auto", "resident", "offload"]
"""A plan; or `auto`, which is resident until the device runs out of memory, and then offloads."""
