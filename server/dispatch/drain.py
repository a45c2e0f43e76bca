"""The end of a server that is told to go: no new runs, and time for those that have begun."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType


class Drain:
    """Whether the server is on its way out, and what still runs."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._has_begun = False
        self._running: dict[str, str] = {}
        self._changed = asyncio.Event()

    @property
    def has_begun(self) -> bool:
        """Whether the server is to end: then it starts no run, and is not ready."""
        return self._has_begun

    @property
    def running(self) -> Mapping[str, str]:
        """The ids of the jobs that run, by their slots."""
        return MappingProxyType(self._running)

    @contextmanager
    def run(self, slot: str, job_id: str) -> Iterator[None]:
        """One run, for which the server's end waits."""
        self._running[slot] = job_id
        try:
            yield
        finally:
            del self._running[slot]
            self._changed.set()

    def ask(self) -> None:
        """Have the server end, as by a first signal."""
        self._asked.set()

    async def asked(self) -> None:
        """Wait until something in the server has asked for its end."""
        await self._asked.wait()

    async def begin(self, at_most_s: float) -> None:
        """Start no more runs, and wait for those that go on, until the time is over."""
        self._has_begun = True
        try:
            async with asyncio.timeout(at_most_s):
                while self._running:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return  # what still runs is given back to the queue
