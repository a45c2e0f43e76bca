"""How many bytes uploads may have: those that are here and those on their way, of all and of a key.

Room is reserved before a byte is written. What is here is not summed up from the tables each time,
but counted on from what they said, and read again before anything is refused: files may have gone.
"""

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

from sqlalchemy import BigInteger, Connection, cast, func, select

from server.db import tables
from server.db.database import Database
from server.disk import MIB
from server.errors import KeyStorageFull, RequestError, StorageFull

SHARED_S = 1.0
"""How long what other servers of the database take in may go unnoticed."""


class StorageQuota:
    """The limits of one data folder. Every method may block, and any thread may call.

    `max_key_bytes` is how many bytes the uploads of one key may have that has no limit of its own;
    None is as many as all.
    """

    def __init__(
        self, database: Database, *, max_bytes: int, max_key_bytes: int | None = None
    ) -> None:
        self._database = database
        self._max_bytes = max_bytes
        self._max_key_bytes = max_key_bytes
        self._lock = threading.Lock()
        self._here: Counter[str | None] | None = None
        self._coming: Counter[str | None] = Counter()
        self._read_at = 0.0

    def reservation(self, key_id: str | None) -> "Reservation":
        """Room for a file of this key, none of it yet."""
        return Reservation(self, key_id)

    def limit_of(self, key_id: str | None) -> int | None:
        """How many bytes the uploads of a key may have; None is as many as all."""
        if key_id is None:
            return None
        keys = tables.keys.c
        own = select(keys.storage_limit_mib).where(keys.id == key_id)
        with self._database.read() as db:
            mib = db.execute(own).scalar_one_or_none()
        return self._max_key_bytes if mib is None else mib * MIB

    def reserve(self, key_id: str | None, size: int, limit: int | None) -> None:
        """Take room for so many bytes more, of which a key may have `limit`.

        Raises:
            StorageFull, KeyStorageFull: there is none.
        """
        with self._lock:
            if (
                self._here is None
                or self._is_stale()
                or self._refusal(self._here, key_id, size, limit) is not None
            ):
                self._here, self._read_at = self._read(), time.monotonic()
            refusal = self._refusal(self._here, key_id, size, limit)
            if refusal is not None:
                raise refusal
            self._coming[key_id] += size

    def release(self, key_id: str | None, size: int, *, is_kept: bool) -> None:
        """Give back what was reserved; if `is_kept` it is in the tables, and counts on."""
        with self._lock:
            self._coming[key_id] -= size
            if is_kept and self._here is not None:
                self._here[key_id] += size

    def _refusal(
        self, here: Counter[str | None], key_id: str | None, size: int, limit: int | None
    ) -> RequestError | None:
        used = here + self._coming
        if used.total() + size > self._max_bytes:
            return StorageFull(self._max_bytes)
        if key_id is not None and limit is not None and used[key_id] + size > limit:
            return KeyStorageFull(key_id, limit)
        return None

    def _is_stale(self) -> bool:
        """Whether other servers may have taken in more than a little since it was read."""
        return self._database.is_shared and time.monotonic() - self._read_at > SHARED_S

    def _read(self) -> Counter[str | None]:
        with self._database.read() as db:
            return _bytes_by_key(db)


class Reservation:
    """Room that one file takes while it comes. Leaving the block gives back what is not kept."""

    def __init__(self, quota: StorageQuota, key_id: str | None) -> None:
        self._quota = quota
        self._key_id = key_id
        self._size = 0
        self._limit: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(is_kept=False)

    def add(self, size: int) -> None:
        """Reserve so many bytes more.

        Raises:
            StorageFull, KeyStorageFull: there is no room for them.
        """
        if self._size == 0:
            self._limit = self._quota.limit_of(self._key_id)
        self._quota.reserve(self._key_id, size, self._limit)
        self._size += size

    def keep(self) -> None:
        """The file's row is committed, and counts from now on."""
        self._end(is_kept=True)

    def _end(self, *, is_kept: bool) -> None:
        self._quota.release(self._key_id, self._size, is_kept=is_kept)
        self._size = 0


def _bytes_by_key(db: Connection) -> Counter[str | None]:
    """What whole files and parts have together, by the key that sent them."""
    files, parts, uploads = tables.artifacts.c, tables.upload_parts, tables.uploads.c
    here, coming = cast(func.sum(files.size), BigInteger), cast(func.sum(parts.c.size), BigInteger)
    whole = select(files.key_id, here).where(files.kind == "upload")
    of_key = parts.join(tables.uploads, parts.c.upload_id == uploads.id)
    in_parts = select(uploads.key_id, coming).select_from(of_key)
    used: Counter[str | None] = Counter()
    for query in (whole.group_by(files.key_id), in_parts.group_by(uploads.key_id)):
        for key_id, size in db.execute(query):
            used[key_id] += size
    return used
