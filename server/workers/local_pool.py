"""The pool of this machine: one worker per device, or per group of devices."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import fields, replace
from pathlib import Path
from typing import Self

from server.config.settings import Settings
from server.data_folder import compiled_in, scratch_in
from server.workers.devices import devices_from, num_members
from server.workers.local_slot import LocalSlot
from server.workers.loop import WorkerOptions
from server.workers.messages import RunEvent, WorkOrder
from server.workers.pool import CLOSED, KILLED, LOAD_S, SlotChange, SlotView
from server.workers.streams import Changes
from server.workers.supervisor import SlotPlan
from server.workers.verdicts import Verdict

_REAPING_S = 30.0
"""How long a killed worker may take to be gone; a driver that hangs can hold one for ever."""


class LocalPool:
    """A `Pool` of one worker for each device or group of devices."""

    def __init__(
        self,
        worker: str,
        options: WorkerOptions,
        devices: Sequence[str],
        *,
        first_backoff_s: float = 1.0,
        load_limit_s: float = LOAD_S,
        ending_grace_s: float = 5.0,
    ) -> None:
        """Prepare a slot for each device, as `devices_from` names them.

        `worker` is `module:Class`. A worker that ends is started again after `first_backoff_s`,
        twice that, and so on to a minute; a run that ends properly resets the count. One that has
        not loaded after `load_limit_s` is ended. When the pool is closed, workers have
        `ending_grace_s` to end by themselves.
        """
        self._ending_grace_s = ending_grace_s
        self._changes = Changes()
        self._slots = {
            name: LocalSlot(
                SlotPlan(
                    name=name,
                    device=device,
                    worker=worker,
                    options=replace(options, num_ranks=num_members(device)),
                    first_backoff_s=first_backoff_s,
                    load_limit_s=load_limit_s,
                ),
                self._changes.publish,
            )
            for name, device in named(devices)
        }

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        data: Path | None = None,
        max_devices: int | None = None,
        ending_grace_s: float = 5.0,
    ) -> Self:
        """A pool of the workers that the settings name, on all of their devices or the first few.

        In the folder `data` workers keep what they compile, and the files of their runs.
        """
        names = {field.name for field in fields(WorkerOptions)}
        options = WorkerOptions(
            # The settings of workers are called as their options are.
            **settings.model_dump(mode="json", include=names),
            compile_cache=None if data is None else str(compiled_in(data)),
            scratch=None if data is None else str(scratch_in(data)),
        )
        return cls(
            settings.worker,
            options,
            devices_from(settings.devices, settings.cuda_visible_devices)[:max_devices],
            load_limit_s=LOAD_S * settings.patience,
            ending_grace_s=ending_grace_s,
        )

    async def start(self) -> None:
        """See `Pool.start`."""
        loop = asyncio.get_running_loop()
        for slot in self._slots.values():
            slot.start(loop)

    async def close(self) -> None:
        """See `Pool.close`."""
        for slot in self._slots.values():
            slot.ask_to_end()
        await asyncio.to_thread(self._join)
        self._changes.publish(None)

    def slots(self) -> Sequence[SlotView]:
        """See `Pool.slots`."""
        return [slot.look() for slot in self._slots.values()]

    def changes(self) -> AsyncGenerator[SlotChange, None]:
        """See `Pool.changes`."""
        return self._changes.read()

    def run(
        self, slot: str, order: WorkOrder
    ) -> AbstractAsyncContextManager[AsyncIterator[RunEvent]]:
        """See `Pool.run`."""
        return self._slots[slot].run(order)

    async def cancel(self, slot: str, job_id: str, attempt: int) -> None:
        """See `Pool.cancel`."""
        self._slots[slot].cancel(job_id, attempt)

    async def answer(self, slot: str, verdict: Verdict) -> None:
        """See `Pool.answer`."""
        self._slots[slot].answer(verdict)

    async def kill(self, slot: str, reason: str = KILLED) -> None:
        """See `Pool.kill`."""
        self._slots[slot].kill(reason)

    def _join(self) -> None:
        deadline = time.monotonic() + self._ending_grace_s
        for slot in self._slots.values():
            slot.supervisor.join(max(0.0, deadline - time.monotonic()))
        for slot in self._slots.values():
            slot.supervisor.kill(CLOSED)
        for slot in self._slots.values():
            slot.supervisor.join(_REAPING_S)


def named(devices: Sequence[str]) -> Iterator[tuple[str, str]]:
    """A name for each device: its own, or with a number where there are several of it."""
    seen: Counter[str] = Counter()
    for device in devices:
        seen[device] += 1
        yield (device if seen[device] == 1 else f"{device}-{seen[device]}"), device
