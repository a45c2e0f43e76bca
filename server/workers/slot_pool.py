"""A pool of slots: what every pool has whose slots follow their workers by a thread each."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from server.workers.messages import RunEvent, WorkOrder
from server.workers.pool import CLOSED, KILLED, SlotChange, SlotUnavailable, SlotView
from server.workers.slot import Slot
from server.workers.streams import Changes
from server.workers.verdicts import Verdict

_REAPING_S = 30.0
"""How long a killed worker may take to be gone; a driver that hangs can hold one for ever."""


class SlotPool:
    """A `Pool` of the slots that are put into it. By itself it has none, and runs nothing."""

    def __init__(self, *, ending_grace_s: float = 5.0) -> None:
        """When the pool is closed, workers have `ending_grace_s` to end by themselves."""
        self._ending_grace_s = ending_grace_s
        self._changes = Changes()
        self._slots: dict[str, Slot] = {}

    async def start(self) -> None:
        """See `Pool.start`."""
        loop = asyncio.get_running_loop()
        for slot in self._slots.values():
            slot.start(loop)

    async def close(self) -> None:
        """See `Pool.close`."""
        await self._end(self._slots.values(), CLOSED)
        self._changes.publish(None)

    def slots(self) -> Sequence[SlotView]:
        """See `Pool.slots`."""
        return [slot.look() for slot in self._slots.values()]

    def changes(self) -> AsyncGenerator[SlotChange, None]:
        """See `Pool.changes`."""
        return self._changes.read()

    @asynccontextmanager
    async def run(self, slot: str, order: WorkOrder) -> AsyncIterator[AsyncIterator[RunEvent]]:
        """See `Pool.run`."""
        if slot not in self._slots:
            raise SlotUnavailable(f"The slot {slot} is gone.")
        async with self._slots[slot].run(order) as events:
            yield events

    async def cancel(self, slot: str, job_id: str, attempt: int) -> None:
        """See `Pool.cancel`."""
        if slot in self._slots:
            self._slots[slot].cancel(job_id, attempt)

    async def answer(self, slot: str, verdict: Verdict) -> None:
        """See `Pool.answer`."""
        if slot in self._slots:
            self._slots[slot].answer(verdict)

    async def kill(self, slot: str, reason: str = KILLED) -> None:
        """See `Pool.kill`."""
        if slot in self._slots:
            self._slots[slot].kill(reason)

    async def _end(self, slots: Collection[Slot], reason: str) -> None:
        """End the workers of these slots, and start no others; `reason` is a sentence."""
        for slot in slots:
            slot.ask_to_end(reason)
        await asyncio.to_thread(self._join, list(slots))

    def _join(self, slots: Sequence[Slot]) -> None:
        deadline = time.monotonic() + self._ending_grace_s
        for slot in slots:
            slot.supervisor.join(max(0.0, deadline - time.monotonic()))
        for slot in slots:
            slot.supervisor.kill(CLOSED)
        deadline = time.monotonic() + _REAPING_S
        for slot in slots:
            slot.supervisor.join(max(0.0, deadline - time.monotonic()))
