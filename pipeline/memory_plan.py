"""Where a loaded model is while no stage uses it. No torch here: the server shows the plan, too."""

from enum import StrEnum
from typing import Literal


class MemoryPlan(StrEnum):
    """Where the modules wait, from the most of the device's memory to the least.

    The plans differ in nothing else: all give the same bytes. Where there are several transformers
    and too little room for all of them, those that stay on the device take turns there: the last
    one that made a video is there, and the others wait in host memory.
    """

    RESIDENT = "resident"
    """All modules stay on the device."""
    OFFLOAD = "offload"
    """The text model and the guardrail's wait in host memory. Two layers of the text model at a
    time, or the guardrail's model, are on the device for their stage; the others stay there."""
    STREAM = "stream"
    """As `OFFLOAD`, and the others, too, wait in host memory but for their stage."""


MemoryChoice = Literal["auto", "resident", "offload", "stream"]
"""A plan; or `auto`, the first that fits into what the device has free. Should memory run out all
the same, that is the last one from then on."""
