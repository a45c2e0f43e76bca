"""Keeps the leases of the jobs that this server has in hand, and takes over those that lapsed."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from server.db.leases import LEASE_S
from server.errors import Shortage
from server.jobs.clock import uptime
from server.jobs.store import JobStore
from server.tasks import Signal, log_errors, to_writer_thread

RENEW_EVERY_S = 10.0
STOP_AFTER_S = LEASE_S - 10.0
"""Runs are stopped that were not renewed for so long: others may have the jobs soon."""

_TRY_S = 5.0
_TRY_AGAIN_S = 1.0
_THREADS = 4
"""For the tries before `STOP_AFTER_S`: one that is given up has its thread until PostgreSQL ends
it."""

_log = structlog.get_logger("server")


class Leases:
    """The leases of one server. `in_hand` gives its jobs by their ids, and the tasks that do them.

    Where no other server uses the database leases are written, and nothing depends on them.
    """

    def __init__(
        self,
        store: JobStore,
        claimable: Signal,
        in_hand: Callable[[], Mapping[str, asyncio.Task[None]]],
        *,
        is_shared: bool,
    ) -> None:
        self._store = store
        self._claimable = claimable
        self._in_hand = in_hand
        self._is_shared = is_shared

    def loops(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """What is to run as long as the server does."""
        loops: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {"renewing leases": self.run}
        if self._is_shared:
            loops["taking over jobs"] = self.take_over
        return loops

    async def run(self) -> None:
        """Renew from time to time, until cancelled."""
        # Threads of its own: those that all share may all wait for a bucket that hangs.
        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="leases")
        try:
            await self._keep_renewing(threads)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    async def take_over(self) -> None:
        """Put back, from time to time, the jobs of servers that are gone, until cancelled."""
        while True:
            await log_errors("taking over jobs", self._take_over())
            await asyncio.sleep(RENEW_EVERY_S / 2)

    async def _keep_renewing(self, threads: ThreadPoolExecutor) -> None:
        renewed_at = uptime()
        while True:
            asked_at = uptime()
            if await log_errors("renewing leases", self._renew(threads)):
                renewed_at = asked_at
                await asyncio.sleep(RENEW_EVERY_S)
                continue
            if self._is_shared and uptime() - renewed_at > STOP_AFTER_S:
                self._stop()
            await asyncio.sleep(_TRY_AGAIN_S)

    async def _renew(self, threads: ThreadPoolExecutor) -> None:
        job_ids = list(self._in_hand())
        if not job_ids:
            return
        renewing = asyncio.get_running_loop().run_in_executor(threads, self._store.renew, job_ids)
        try:
            async with asyncio.timeout(_TRY_S):
                await renewing
        except TimeoutError as error:
            raise Shortage("The server's database does not answer.") from error

    def _stop(self) -> None:
        in_hand = self._in_hand()
        if in_hand:
            _log.error(
                "Leases could not be renewed: the jobs are left to other servers",
                jobs=sorted(in_hand),
            )
        for task in in_hand.values():
            task.cancel()

    async def _take_over(self) -> None:
        count = await to_writer_thread(self._store.take_over)
        if count:
            _log.warning("Jobs of a server that is gone were put back", count=count)
            self._claimable.notify()
