"""What a pool hands out on the event loop: the events of a run, and the changes of its slots."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import Self

from server.workers.messages import RunEvent, is_terminal
from server.workers.pool import SlotChange, WorkerDied

MAX_WAITING_EVENTS = 16
"""How many events of a run wait to be taken, a chunk being 1 MiB, before its worker has to."""


class RunEvents:
    """The events of one run, delivered by the slot's thread and iterated over on the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_over = False
        """Whether the last event was delivered."""
        self._loop = loop
        self._events: asyncio.Queue[RunEvent | WorkerDied] = asyncio.Queue()
        self._room = threading.Semaphore(MAX_WAITING_EVENTS)
        self._is_dropped = False
        self._is_exhausted = False

    def deliver(self, event: RunEvent) -> None:
        """Hand over the next event, from the slot's thread; waits while too many are waiting."""
        self.is_over = is_terminal(event)
        self._room.acquire()
        if self._is_dropped:
            self._room.release()
        else:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def end(self, why: WorkerDied) -> None:
        """Say, on the event loop, that no more will come; means nothing if the run is over."""
        self._events.put_nowait(why)
        self.drop()

    def drop(self) -> None:
        """Discard what is still to come, so that the slot's thread never waits here again."""
        self._is_dropped = True
        self._room.release()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RunEvent:
        if self._is_exhausted:
            raise StopAsyncIteration
        event = await self._events.get()
        self._room.release()
        if isinstance(event, WorkerDied):
            raise event
        self._is_exhausted = is_terminal(event)
        return event


class Changes:
    """The changes of a pool's slots, for any number of readers."""

    def __init__(self) -> None:
        self._readers: list[asyncio.Queue[SlotChange | None]] = []

    def publish(self, change: SlotChange | None) -> None:
        """Tell every reader; None ends what they read."""
        for reader in self._readers:
            reader.put_nowait(change)

    def read(self) -> AsyncGenerator[SlotChange, None]:
        """Every change from this call on."""
        reader: asyncio.Queue[SlotChange | None] = asyncio.Queue()
        self._readers.append(reader)
        return self._read(reader)

    async def _read(
        self, reader: asyncio.Queue[SlotChange | None]
    ) -> AsyncGenerator[SlotChange, None]:
        try:
            while (change := await reader.get()) is not None:
                yield change
        finally:
            self._readers.remove(reader)
