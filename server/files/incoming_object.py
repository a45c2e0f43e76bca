"""A file on its way into a bucket: a small one waits in memory, a large one is sent as it comes."""

import hashlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Protocol, Self

from server.disk import MIB
from server.errors import FilesAway, Shortage

PIECE_BYTES = 5 * MIB
"""What is read, or sent, in one request; S3 takes no smaller parts."""


class Bucket(Protocol):
    """Where the file goes."""

    def put(
        self, artifact_id: str, data: bytes | Iterator[bytes], content_type: str, *, is_new: bool
    ) -> None:
        """Put a whole object; bytes that are new only where none of that id is.

        Pieces that are asked for one after the other are sent in parts, which become an object at
        their end. If the iterator raises, so does this, and there is none.
        """

    def try_remove(self, artifact_ids: Iterable[str]) -> tuple[list[str], Exception | None]:
        """As for a `FileStore`."""


class IncomingObject:
    """A file on its way into a bucket.

    One with a new id is put by `flush`. One whose id was agreed is put by `keep`, within the
    transaction that lets no other of that id be kept; all but its last piece is there before.
    """

    def __init__(
        self, bucket: Bucket, artifact_id: str, content_type: str, *, is_new: bool
    ) -> None:
        self.id = artifact_id
        self.content_type = content_type
        self.size = 0
        self._bucket = bucket
        self._is_new = is_new
        self._hash = hashlib.sha256()
        self._begin = bytearray()
        self._sending: _Sending | None = None
        self._is_put = self._has_ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)
        if self._sending is not None:
            self._sending.write(data)
            return
        self._begin += data
        if len(self._begin) > PIECE_BYTES:
            self._sending = _Sending(self._put)
            self._sending.write(bytes(self._begin))
            self._begin.clear()

    def flush(self) -> None:
        if self._is_new:
            self._complete()

    def keep(self) -> None:
        self._complete()
        self._has_ended = True

    def discard(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if self._is_put:
            self._bucket.try_remove([self.id])
        elif self._sending is not None:
            self._sending.give_up()

    def _complete(self) -> None:
        if self._is_put:
            return
        if self._sending is None:
            self._put(bytes(self._begin))
        else:
            self._sending.end()
        self._is_put = True

    def _put(self, data: bytes | Iterator[bytes]) -> None:
        self._bucket.put(self.id, data, self.content_type, is_new=self._is_new)


class _GivenUp(Exception):
    """A file is not to be sent to its end."""


class _Sending:
    """A file that is sent while it comes. A thread takes its pieces; if it is given up, obstore
    gives up the parts that were sent."""

    def __init__(self, put: Callable[[Iterator[bytes]], None]) -> None:
        self._pieces: queue.Queue[bytes | _GivenUp | None] = queue.Queue(maxsize=1)
        self._done: Future[None] = Future()
        threading.Thread(target=self._send, args=(put,), name="sending", daemon=True).start()

    def write(self, data: bytes) -> None:
        """Send more; wait while enough is on its way.

        Raises:
            Shortage: it cannot be sent, nor what was written before.
        """
        self._give(data)

    def end(self) -> None:
        """Wait until the object is whole.

        Raises:
            Shortage: it cannot be sent.
        """
        self._give(None)
        self._done.result()

    def give_up(self) -> None:
        """Wait until nothing is sent any more."""
        try:
            self._give(_GivenUp())
            self._done.result()
        except (_GivenUp, Shortage):
            return

    def _give(self, piece: bytes | _GivenUp | None) -> None:
        while not self._done.done():
            try:
                self._pieces.put(piece, timeout=0.5)
            except queue.Full:
                continue
            return
        self._done.result()

    def _send(self, put: Callable[[Iterator[bytes]], None]) -> None:
        try:
            put(self._taken())
        except FilesAway as away:
            # What was sent before is gone: to wait for the store is of no use.
            self._done.set_exception(Shortage(away.sentence))
        except BaseException as error:
            self._done.set_exception(error)
        else:
            self._done.set_result(None)

    def _taken(self) -> Iterator[bytes]:
        while (piece := self._pieces.get()) is not None:
            if isinstance(piece, _GivenUp):
                raise piece
            yield piece
