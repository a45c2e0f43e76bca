"""Work on several files at a time, which ends when one of them fails."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = 4


class Stopped(Exception):
    """Another file failed, or the user wants an end."""


class Parallel:
    """Threads that work on files, and count bytes by `advance`."""

    def __init__(
        self, advance: Callable[[int], None], stopping: threading.Event | None = None
    ) -> None:
        """The work ends once `stopping` is set, from outside, whereupon `run` raises `Stopped`, or
        by the first error."""
        self._advance = advance
        self._stopping = stopping or threading.Event()

    def run(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """What `work` returns for each item, in their order.

        The first error, or Ctrl-C, is raised when the threads have ended: they end where they
        next call `advance` or `wait`.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            try:
                futures = [pool.submit(work, item) for item in items]
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self._stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def advance(self, count: int) -> None:
        """Count bytes; a negative number takes back what has to be done again."""
        if self._stopping.is_set():
            raise Stopped
        self._advance(count)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        if self._stopping.wait(seconds):
            raise Stopped
