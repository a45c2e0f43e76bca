"""Whether workers end so often that the slot cannot be relied on."""

import time
from collections import deque
from collections.abc import Callable

TOO_MANY = 5
WITHIN_S = 600.0


class Deaths:
    """When the last workers of one slot ended, since one of them did a whole run."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._times: deque[float] = deque(maxlen=TOO_MANY)

    def add(self) -> None:
        self._times.append(self._now())

    def clear(self) -> None:
        """A run came to its end: the slot works."""
        self._times.clear()

    @property
    def too_many(self) -> bool:
        """Whether there were five within the last ten minutes."""
        return len(self._times) == TOO_MANY and self._now() - self._times[0] < WITHIN_S
