"""A stopped server's files go from its data folder into S3, each checked by its hash."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import select

from server.db import tables
from server.db.database import Database
from server.errors import Shortage
from server.files.backup import Showing
from server.files.content_types import UNKNOWN
from server.files.store import FileStore


class _Known(NamedTuple):
    """A file as its row describes it."""

    id: str
    size: int
    sha256: str
    content_type: str


@dataclass(slots=True)
class FilesCopied:
    """The numbers of files, and the bytes of those that were copied.

    `there` were in S3 before, with the right bytes. `missing` are ids of files that the tables name
    and that the folder does not have, `damaged` of those that have other bytes than the tables say.
    """

    copied: int = 0
    size: int = 0
    there: int = 0
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def copy_files(
    database: Database, source: FileStore, target: FileStore, showing: Showing
) -> FilesCopied:
    """Copy every file that the tables name. Those that are there are read and not sent again.

    Raises:
        Shortage: the target cannot be used now, or holds something else than was sent; the same
            call goes on from there.
    """
    found = FilesCopied()
    known = _known(database)
    with showing(sum(file.size for file in known)) as display:
        for file in known:
            _copy(file, source, target, found)
            display.advance(file.size)
    return found


def _copy(file: _Known, source: FileStore, target: FileStore, found: FilesCopied) -> None:
    if _is_there(target, file):
        found.there += 1
        return
    with target.receive_as(file.id, content_type=file.content_type) as incoming:
        try:
            for piece in source.pieces(file.id):
                incoming.write(piece)
        except FileNotFoundError:
            found.missing.append(file.id)
            return
        if incoming.sha256 != file.sha256:
            found.damaged.append(file.id)
            return
        incoming.keep()
    if not _is_there(target, file):
        raise Shortage(f"The file {file.id} is in S3 with other bytes than were sent.")
    found.copied += 1
    found.size += file.size


def _is_there(target: FileStore, file: _Known) -> bool:
    """Whether the target has the file with the bytes that its row knows; they are all read."""
    try:
        return _sha256(target.pieces(file.id)) == file.sha256
    except FileNotFoundError:
        return False


def _sha256(pieces: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _known(database: Database) -> Sequence[_Known]:
    files, parts = tables.artifacts.c, tables.upload_parts.c
    whole = select(files.id, files.size, files.sha256, files.content_type)
    in_parts = select(parts.file_id, parts.size, parts.sha256)
    with database.read() as db:
        return [
            *(_Known(*row) for row in db.execute(whole.order_by(files.created_at))),
            *(_Known(*row, UNKNOWN) for row in db.execute(in_parts)),
        ]
