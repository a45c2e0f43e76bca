"""Files that no row names: a crash left them, or the database is an older copy.

The server cannot tell the two apart, so it deletes neither at once. At the start such files are
moved to the quarantine, where they stay for a week; if the right database is put back in that
time, the next start moves them back. Where most files are unknown, the start is refused.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import select

from server.data_folder import DataFolderError
from server.db import tables
from server.db.database import Database
from server.files.local import LocalFiles

if TYPE_CHECKING:
    from server.files.s3 import S3Files

OLD_S = 86_400.0
"""A file that nobody has written for so long is not on its way in."""

QUARANTINE_DAYS = 7
MAX_UNKNOWN = 10
"""How many a crash may leave: with more, and more than are known, the database is suspected."""

_VIDEO_OR_UPLOAD = re.compile("[0-9a-f]{32}")
"""The ids of what people would miss. Those of pictures and of parts, which are kept for minutes,
have a dash: a crash may leave all the parts of an upload."""

_log = structlog.get_logger("server")


class MostFilesUnknown(DataFolderError):
    """The database does not know most of the files; the message says what to do."""


class UnknownFiles:
    """Keeps `files` to those that the database knows, and moves the others to `quarantine`.

    `insist` moves them even where they are most of all. They stay for a week, and no longer than
    `keep_s`, if that is given. Every method blocks.
    """

    def __init__(
        self,
        database: Database,
        files: LocalFiles,
        quarantine: LocalFiles,
        *,
        insist: bool = False,
        keep_s: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._files = files
        self._quarantine = quarantine
        self._insist = insist
        week_s = QUARANTINE_DAYS * 86_400.0
        self._keep_s = week_s if keep_s is None else min(week_s, keep_s)
        self._now = now

    def clean_up(self, *, is_shared: bool = False) -> None:
        """Clear up what the last server left unfinished, before anything comes in.

        Where other servers share the folder, what has no row may be on its way in at one of them:
        it stays.

        Raises:
            MostFilesUnknown: the database is not the one of these files.
        """
        if is_shared:
            self._files.clear_parts(before=time.time() - OLD_S)
            return
        self._files.clear_parts()
        self.set_aside()

    def set_aside(self) -> None:
        """Move the unknown files away, and those that are known again back. Nothing may be on its
        way in meanwhile.

        Raises:
            MostFilesUnknown: they are most of all, and nobody insists.
        """
        known = _known(self._database)
        here = set(self._files.ids())
        back = (known - here).intersection(self._quarantine.ids())
        unknown = here - known
        if not self._insist:
            self._check(unknown, (known & here) | back)
        try:
            for file_id in back:
                self._quarantine.move(file_id, self._files)
            for file_id in unknown:
                # Its week begins now.
                os.utime(self._files.path(file_id), (self._now(), self._now()))
                self._files.move(file_id, self._quarantine)
        except OSError as error:
            # A full disk, say. What was not moved stays where it is until the next start.
            _log.error("Unknown files could not be moved to the quarantine", why=str(error))
        if back:
            _log.info("Files that are known again were moved back", count=len(back))
        if unknown:
            _log.warning(
                "Files that the database does not know were moved to the quarantine",
                count=len(unknown),
                folder=str(self._quarantine.root),
                removed_after_days=self._keep_s / 86_400.0,
            )

    def sweep(self) -> None:
        """Remove the files that have been in the quarantine for long enough."""
        oldest = self._now() - self._keep_s
        for file_id in self._quarantine.ids():
            if self._quarantine.path(file_id).stat().st_mtime <= oldest:
                self._quarantine.remove(file_id)

    def _check(self, unknown: set[str], known: set[str]) -> None:
        strange, good = (
            sum(1 for file_id in ids if _VIDEO_OR_UPLOAD.fullmatch(file_id))
            for ids in (unknown, known)
        )
        if strange > max(MAX_UNKNOWN, good):
            raise MostFilesUnknown(
                f"The database does not know {strange} of the {strange + good} videos and uploads "
                f"in {self._files.root}, so it may be an older copy: put the right one back, or "
                f"start with --quarantine-unknown, which moves them to {self._quarantine.root} "
                f"and removes them there after {QUARANTINE_DAYS} days."
            )


def remove_unknown_objects(database: Database, files: "S3Files", *, old_s: float = OLD_S) -> None:
    """Remove the pictures, pixels and parts of a bucket that no row names, and that are old.

    They were to be removed while the bucket was away, or a crash left them. Videos and uploads
    that no row names stay: the database may be an older copy, and nothing would bring them back.
    """
    files.remove(*_without_row(database, files.ids_before(_ago(old_s), temporary=True)))


def unknown_objects(database: Database, files: "S3Files", *, old_s: float = OLD_S) -> list[str]:
    """The videos and uploads of a bucket that no row names, and that are old.

    What else may be there has a name that this server does not give.
    """
    old = files.ids_before(_ago(old_s))
    return _without_row(database, [each for each in old if _VIDEO_OR_UPLOAD.fullmatch(each)])


def _ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def _without_row(database: Database, ids: Sequence[str]) -> list[str]:
    """Those of them that no row names; a row that is committed meanwhile is of something newer."""
    known = _known(database) if ids else set()
    return [each for each in ids if each not in known]


def _known(database: Database) -> set[str]:
    """Every file that a row names."""
    with database.read() as db:
        files = set(db.execute(select(tables.artifacts.c.id)).scalars())
        return files.union(db.execute(select(tables.upload_parts.c.file_id)).scalars())
