"""The end of a server that is told to go: no new runs, and time for those that have begun."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Drain:
    """Whether the server is on its way out, and whether anything still runs."""

    def __init__(self) -> None:
        self._has_begun = False
        self._running = 0
        self._changed = asyncio.Event()

    @property
    def has_begun(self) -> bool:
        """Whether the server is to end: then it starts no run, and is not ready."""
        return self._has_begun

    @contextmanager
    def run(self) -> Iterator[None]:
        """One run, for which the server's end waits."""
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._changed.set()

    async def begin(self, at_most_s: float) -> None:
        """Start no more runs, and wait for those that go on, until the time is over."""
        self._has_begun = True
        try:
            async with asyncio.timeout(at_most_s):
                while self._running > 0:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return  # what still runs is given back to the queue
