"""Files in a bucket of S3, or of a store that speaks its protocol, by obstore.

An object is put whole or not at all: what is larger than a piece is sent in parts while it comes,
and the parts become an object at its end. Credentials, region and endpoint are those of the
environment's AWS_ variables, which obstore reads itself.

What S3 cannot do now is a shortage that passes: jobs wait. From the first failure on nobody waits
for a store that is away, until `watch` finds that it is back.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import obstore
import structlog
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import ObjectStore, S3Store

from server.errors import FilesAway, Shortage
from server.files.content_types import UNKNOWN
from server.files.incoming_object import PIECE_BYTES, IncomingObject
from server.files.store import check_id, new_id
from server.tasks import every, in_thread

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

PARTS_AT_ONCE = 2
"""Of one file that is on its way in; each is in memory until it is sent."""

PROBE_EVERY_S = 1.0

_TEMPORARY = "temporary"
"""Where pictures, prepared pixels and parts of uploads are. Their ids have a dash."""

_CLIENT: "ClientConfig" = {
    # An endpoint of http:// is one that the operator named.
    "allow_http": True,
    "connect_timeout": timedelta(seconds=3),
    "timeout": timedelta(seconds=10),
}
_RETRY: "RetryConfig" = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=5),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1)},
}
"""A request takes some 10 s at most: threads that write to the database may wait for one."""

_AWAY = "The store of the server's files is away."
_NO_BUCKET = "The bucket of the server's files is not there."
_REFUSED = "The store of the server's files refuses the server{}."
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")

_log = structlog.get_logger("server")


class S3Files:
    """The files in a bucket, below a prefix. Every method that is not async blocks.

    `scratch` is a folder of this machine for files that a program has to read.
    """

    def __init__(self, store: ObjectStore, *, scratch: Path) -> None:
        self._store = store
        self._scratch = scratch
        self.problem: str | None = None

    @classmethod
    def at(cls, url: str, *, scratch: Path) -> "S3Files":
        """The files at `s3://bucket/prefix`. Nothing is asked of the bucket yet."""
        parts = urlsplit(url)
        prefix = parts.path.strip("/") or None
        store = S3Store(parts.netloc, prefix=prefix, client_options=_CLIENT, retry_config=_RETRY)
        return cls(store, scratch=scratch)

    def read(self, artifact_id: str) -> bytes:
        return b"".join(self.pieces(artifact_id))

    def pieces(self, artifact_id: str) -> Iterator[bytes]:
        key = _key_of(artifact_id)
        with self._shortages():
            # Not its head: the answer to that does not tell a bucket that is not there.
            whole = obstore.get(self._store, key)
            size = whole.meta["size"]
            if size <= PIECE_BYTES:
                yield whole.bytes().to_bytes()
                return
            del whole  # its connection is of no use
        for start in range(0, size, PIECE_BYTES):
            end = min(start + PIECE_BYTES, size)
            with self._shortages():
                piece = obstore.get_range(self._store, key, start=start, end=end).to_bytes()
            yield piece

    def open(self, artifact_id: str) -> IO[bytes]:
        with ExitStack() as unless_it_is_whole:
            file = unless_it_is_whole.enter_context(self.scratch())
            for piece in self.pieces(artifact_id):
                file.write(piece)
            file.seek(0)
            unless_it_is_whole.pop_all()
        return file

    async def read_range(self, artifact_id: str, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`, which there are, and which are not none."""
        with self._shortages():
            key = _key_of(artifact_id)
            return (
                await obstore.get_range_async(self._store, key, start=start, end=end)
            ).to_bytes()

    def signed_url(self, artifact_id: str, *, seconds: int) -> str:
        """A URL of the bucket that reads the file, for so many seconds, without a key."""
        assert isinstance(self._store, S3Store), "only S3 signs URLs"
        with self._shortages():
            return obstore.sign(
                self._store, "GET", _key_of(artifact_id), timedelta(seconds=seconds)
            )

    def ids(self) -> Iterator[str]:
        return (artifact_id for artifact_id, _ in self._listed())

    def ids_before(self, before: datetime, *, temporary: bool = False) -> list[str]:
        """What was last written before that time, or only the pictures, pixels and parts of it."""
        listed = self._listed(_TEMPORARY if temporary else None)
        return [artifact_id for artifact_id, at in listed if at < before]

    def receive(self, prefix: str = "", *, content_type: str = UNKNOWN) -> IncomingObject:
        return self._incoming(new_id(prefix), content_type, is_new=True)

    def receive_as(self, artifact_id: str, *, content_type: str = UNKNOWN) -> IncomingObject:
        return self._incoming(artifact_id, content_type, is_new=False)

    def scratch(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self._scratch)

    def put(
        self, artifact_id: str, data: bytes | Iterator[bytes], content_type: str, *, is_new: bool
    ) -> None:
        """As a `Bucket` for an `IncomingObject`."""
        mode: Literal["create", "overwrite"] = "overwrite"
        if is_new and isinstance(data, bytes):
            mode = "create"
        # The id of a new one is its own: if one is there, an answer to us was lost.
        with self._shortages(), suppress(AlreadyExistsError):
            obstore.put(
                self._store,
                _key_of(artifact_id),
                data,
                attributes={"Content-Type": content_type},
                mode=mode,
                chunk_size=PIECE_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )

    def remove(self, *artifact_ids: str) -> None:
        _, error = self.try_remove(artifact_ids)
        if error is not None:
            raise error

    def try_remove(self, artifact_ids: Iterable[str]) -> tuple[list[str], Exception | None]:
        ids = list(artifact_ids)
        try:
            with self._shortages():
                if ids:
                    obstore.delete(self._store, [_key_of(artifact_id) for artifact_id in ids])
        except Shortage as shortage:
            return [], shortage
        return ids, None

    def check(self) -> None:
        """See that the bucket can be used: write, read and delete an object.

        Raises:
            FilesAway: it cannot be used now.
        """
        key = f"{_TEMPORARY}/{new_id('check-')}"
        with _as_shortages():
            obstore.put(self._store, key, b"cosmos-serve")
            obstore.get(self._store, key).bytes()
            obstore.delete(self._store, key)

    async def watch(self) -> None:
        """Find out whether a bucket that was away is back, until cancelled."""
        await self._probe()
        await every(PROBE_EVERY_S, "asking the store of files", self._probe_if_away)

    async def _probe_if_away(self) -> None:
        if self.problem is not None:
            await self._probe()

    async def _probe(self) -> None:
        try:
            await in_thread(self.check)
        except FilesAway as away:
            self._note(away)
        else:
            if self.problem is not None:
                _log.info("The store of the server's files can be used again")
            self.problem = None

    def _note(self, away: FilesAway) -> None:
        if self.problem is None:
            _log.error(away.sentence, why=str(away.__cause__).partition("\n")[0])
        self.problem = away.sentence

    def _incoming(self, artifact_id: str, content_type: str, *, is_new: bool) -> IncomingObject:
        check_id(artifact_id)
        with self._shortages():
            return IncomingObject(self, artifact_id, content_type, is_new=is_new)

    def _listed(self, prefix: str | None = None) -> Iterator[tuple[str, datetime]]:
        """The ids of objects, and when each was last written."""
        with self._shortages():
            for batch in obstore.list(self._store, prefix):
                for meta in batch:
                    yield meta["path"].rpartition("/")[2], meta["last_modified"]

    @contextmanager
    def _shortages(self) -> Iterator[None]:
        """Use the bucket, unless it is known to be away."""
        if self.problem is not None:
            raise FilesAway(self.problem)
        try:
            with _as_shortages():
                yield
        except FilesAway as away:
            self._note(away)
            raise


@contextmanager
def _as_shortages() -> Iterator[None]:
    """Make errors of obstore shortages, but for a file that is not there."""
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchKey" not in str(error) and "status code: 404" in str(error):
            # It is another machine that answers, or one that has no such bucket.
            raise FilesAway(_NO_BUCKET) from error
        raise
    except BaseError as error:
        raise FilesAway(_sentence_of(error)) from error


def _sentence_of(error: BaseError) -> str:
    code = _CODE.search(str(error))
    if code is not None:
        if code[1] == "NoSuchBucket":
            return _NO_BUCKET
        return _REFUSED.format(f": {code[1]}")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return _REFUSED.format("")
    return _AWAY


def _key_of(artifact_id: str) -> str:
    check_id(artifact_id)
    return f"{_TEMPORARY}/{artifact_id}" if "-" in artifact_id else artifact_id
