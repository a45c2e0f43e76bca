"""Everything that the server removes by itself, and when."""

import time
from collections.abc import Callable, Mapping

from server.files.store import FileStore
from server.files.unknown_files import UnknownFiles
from server.jobs.clock import Heartbeat
from server.tasks import every, log_errors, to_writer_thread

SWEEP_EVERY_S = 30.0

OLD_S = 86_400.0
"""A file that nobody has written for so long is not on its way in."""


class Sweeper:
    """Removes what is over, one kind after the other.

    Where servers share the database and the files, the one that `leads` does it.
    """

    def __init__(
        self,
        sweeps: Mapping[str, Callable[[], None]],
        files: FileStore,
        unknown: UnknownFiles,
        heartbeat: Heartbeat,
        *,
        is_shared: bool = False,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """`sweeps` remove one kind each, and block; their names say so in the log."""
        self._sweeps = sweeps
        self._files = files
        self._unknown = unknown
        self._heartbeat = heartbeat
        self._is_shared = is_shared
        self._leads = leads

    def clean_up(self) -> None:
        """Clear up what the last server left unfinished, before anything comes in. Blocks.

        Raises:
            MostFilesUnknown: the database is not the one of these files.
        """
        if self._is_shared:
            # What has no row may be on its way in at another server.
            self._files.clear_parts(before=time.time() - OLD_S)
            return
        self._files.clear_parts()
        self._unknown.set_aside()

    async def run(self) -> None:
        """Sweep from time to time until cancelled."""
        await every(SWEEP_EVERY_S, "sweeping", self.sweep)

    async def sweep(self) -> None:
        """Remove all whose time is over.

        If one kind cannot be removed now, that goes to the log, and the others are removed. While
        the clock is doubted nothing is.
        """
        if not self._leads():
            return
        if not self._heartbeat.is_doubted():
            for what, sweep in self._sweeps.items():
                await log_errors(what, to_writer_thread(sweep))
        await log_errors("noting the time", to_writer_thread(self._heartbeat.beat))
