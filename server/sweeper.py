"""Everything that the server removes by itself, and when."""

from collections.abc import Callable, Mapping

from server.jobs.clock import Heartbeat
from server.tasks import every, log_errors, to_writer_thread

SWEEP_EVERY_S = 30.0


class Sweeper:
    """Removes what is over, one kind after the other.

    Where servers share the database and the files, the one that `leads` does it.
    """

    def __init__(
        self,
        sweeps: Mapping[str, Callable[[], None]],
        heartbeat: Heartbeat,
        *,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """`sweeps` remove one kind each, and block; their names say so in the log."""
        self._sweeps = sweeps
        self._heartbeat = heartbeat
        self._leads = leads

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
