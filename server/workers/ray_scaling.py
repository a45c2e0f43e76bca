"""How many workers a Ray cluster is to have, where that follows the jobs that wait.

The pool asks Ray for nodes, and lets go of workers; nodes are brought and removed by an autoscaler
of Ray's, such as KubeRay's, which removes those on which nothing runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.workers.pool import SlotState, SlotView


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What the number of workers follows, and its bounds.

    `waiting` counts the jobs that would be claimed now; it blocks. Workers that are too many end
    when they have had no job for `idle_s`.
    """

    waiting: Callable[[], int]
    min_slots: int
    max_slots: int
    idle_s: float

    def wanted(self, slots: Sequence[SlotView], waiting: int) -> int:
        """How many slots are to have a worker, of the cluster's or of those still to come."""
        busy = sum(slot.state is SlotState.BUSY for slot in slots)
        # Those whose workers keep ending do none of the jobs.
        useless = sum(slot.is_unstable and slot.state is not SlotState.BUSY for slot in slots)
        return min(self.max_slots, max(self.min_slots, busy + waiting) + useless)
