"""Everything that the server removes by itself, and when."""

from server.files.store import FileStore
from server.files.unknown_files import UnknownFiles
from server.files.uploads import Uploads
from server.inputs.image_store import ImageStore
from server.jobs.clock import Heartbeat
from server.jobs.retention import Retention
from server.tasks import every, log_errors, to_writer_thread

SWEEP_EVERY_S = 30.0


class Sweeper:
    """Removes what is over, one kind after the other."""

    def __init__(
        self,
        retention: Retention,
        images: ImageStore,
        uploads: Uploads,
        files: FileStore,
        unknown: UnknownFiles,
        heartbeat: Heartbeat,
    ) -> None:
        self._sweeps = {
            "removing what has expired": retention.sweep,
            "removing pictures": images.sweep,
            "removing files whose time is over": uploads.sweep,
            "removing files from the quarantine": unknown.sweep,
        }
        self._files = files
        self._unknown = unknown
        self._heartbeat = heartbeat

    def clean_up(self) -> None:
        """Clear up what the last server left unfinished, before anything comes in. Blocks.

        Raises:
            MostFilesUnknown: the database is not the one of these files.
        """
        self._files.clear_parts()
        self._unknown.set_aside()

    async def run(self) -> None:
        """Sweep from time to time until cancelled."""
        await every(SWEEP_EVERY_S, "sweeping", self.sweep)

    async def sweep(self) -> None:
        """Remove the jobs and videos, the images, and the uploads whose time is over.

        If one kind cannot be removed now, that goes to the log, and the others are removed. While
        the clock is doubted nothing is.
        """
        if not self._heartbeat.is_doubted():
            for what, sweep in self._sweeps.items():
                await log_errors(what, to_writer_thread(sweep))
        await log_errors("noting the time", to_writer_thread(self._heartbeat.beat))
