"""The pool of this machine: one worker per device, or per group of devices."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Self

from server.config.settings import Settings
from server.data_folder import compiled_in, scratch_in
from server.workers.devices import devices_from, num_members
from server.workers.loop import WorkerOptions
from server.workers.pool import LOAD_S
from server.workers.process import worker_process
from server.workers.slot import Slot
from server.workers.slot_pool import SlotPool
from server.workers.supervisor import SlotPlan


class LocalPool(SlotPool):
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
        super().__init__(ending_grace_s=ending_grace_s)
        self._slots |= {
            name: Slot(
                SlotPlan(
                    name=name,
                    device=device,
                    start=partial(
                        worker_process,
                        worker,
                        device,
                        replace(options, num_ranks=num_members(device)),
                    ),
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
        return cls(
            settings.worker,
            kept_in(data, options_from(settings)),
            devices_from(settings.devices, settings.cuda_visible_devices)[:max_devices],
            load_limit_s=LOAD_S * settings.patience,
            ending_grace_s=ending_grace_s,
        )


def options_from(settings: Settings) -> WorkerOptions:
    """What the settings say of workers, whose options are called as the settings are."""
    names = {field.name for field in fields(WorkerOptions)}
    return WorkerOptions(**settings.model_dump(mode="json", include=names))


def kept_in(data: Path | None, options: WorkerOptions) -> WorkerOptions:
    """The options of workers whose files, and what they compile, are kept in a data folder."""
    if data is None:
        return options
    return replace(options, compile_cache=str(compiled_in(data)), scratch=str(scratch_in(data)))


def named(devices: Sequence[str]) -> Iterator[tuple[str, str]]:
    """A name for each device: its own, or with a number where there are several of it."""
    seen: Counter[str] = Counter()
    for device in devices:
        seen[device] += 1
        yield (device if seen[device] == 1 else f"{device}-{seen[device]}"), device
