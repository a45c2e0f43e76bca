"""Files that callers send us: whole, or in parts that become one file in the end.

The URL of an upload is the right to use it: its holder may send the file once, within an hour,
of the size and type that were agreed. Bytes go to the disk as they come, once there is room for
them within the limits; a file appears whole or not at all, and its row after it. The key is asked
for again just before the row.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from server.disk import MIB
from server.errors import BadRequest, UploadClosed, UploadTooLarge
from server.files.quota import Reservation, StorageQuota
from server.files.store import FileStore, IncomingFile
from server.files.upload_store import NewUpload, Part, Upload, UploadStore
from server.models import StoredArtifact
from server.tasks import FairSemaphore, in_thread, to_writer_thread

MAX_PARTS = 10_000

JOINED_AT_ONCE = 2
"""Uploads whose parts become one file at the same time: both are on the disk until that is done."""

_WRITE_BYTES = MIB
"""Bytes collected before a thread writes them."""


@dataclass(frozen=True, slots=True)
class PartClaim:
    """One part as the caller names it when an upload is completed."""

    number: int
    etag: str


async def _no_key(_key_id: str | None) -> None:
    """Nothing that was begun needs a key."""


class Uploads:
    """Takes files in. `check_key` raises Unauthorized for a key that is no longer good."""

    def __init__(
        self,
        store: UploadStore,
        files: FileStore,
        quota: StorageQuota,
        *,
        max_size: int,
        check_key: Callable[[str | None], Awaitable[None]] = _no_key,
    ) -> None:
        self._store = store
        self._files = files
        self._quota = quota
        self._max_size = max_size
        self._check_key = check_key
        self._joining = FairSemaphore(JOINED_AT_ONCE)

    async def receive(self, new: NewUpload, body: AsyncIterator[bytes]) -> StoredArtifact:
        """Take a file in that comes with the request that asks for it.

        Raises:
            UploadTooLarge: it has more bytes than a file may have.
            StorageFull, KeyStorageFull: there is no room for it.
            Unauthorized: its key has ended meanwhile.
        """
        begin = partial(self._files.receive, content_type=new.content_type)
        async with self._received(new.key_id, body, self._max_size, begin) as incoming:
            file = _described(incoming, new)
            await to_writer_thread(self._store.add_file, file, new, place=incoming.keep)
            return file

    async def begin(self, new: NewUpload, *, in_parts: bool) -> Upload:
        """Agree on an upload that comes later."""
        max_size = self._max_size
        return await to_writer_thread(self._store.begin, new, in_parts=in_parts, max_size=max_size)

    async def find(self, upload_id: str) -> Upload:
        """An upload by its id."""
        return await asyncio.to_thread(self._store.upload, upload_id)

    async def put(self, upload: Upload, body: AsyncIterator[bytes]) -> StoredArtifact:
        """Take in the file of an upload that is whole.

        Raises:
            UploadClosed: the upload is over.
            UploadTooLarge: the file has more bytes than were agreed.
            StorageFull, KeyStorageFull, Unauthorized: as for `receive`.
        """
        if upload.in_parts:
            raise BadRequest("This upload comes in parts: put each under its number.")
        if upload.is_closed:
            raise UploadClosed
        begin = self._beginning_of(upload)
        async with self._received(upload.key_id, body, upload.max_size, begin) as incoming:
            file = _described(incoming, upload)
            await to_writer_thread(self._store.finish, upload, file, place=incoming.keep)
            return file

    async def put_part(self, upload: Upload, number: int, body: AsyncIterator[bytes]) -> Part:
        """Take in one part; one that comes again replaces the first.

        Raises:
            UploadClosed: the upload is over.
            UploadTooLarge: all parts together have more bytes than were agreed.
            StorageFull, KeyStorageFull, Unauthorized: as for `receive`.
        """
        if not upload.in_parts:
            raise BadRequest("This upload does not come in parts: put the file to its own URL.")
        if not 1 <= number <= MAX_PARTS:
            raise BadRequest(f"Parts are numbered from 1 to {MAX_PARTS:,}.")
        if upload.is_closed:
            raise UploadClosed
        begin = partial(self._files.receive, "part-")
        async with self._received(upload.key_id, body, upload.max_size, begin) as incoming:
            part = Part(number, incoming.id, incoming.size, incoming.sha256)
            replaced = await to_writer_thread(
                self._store.add_part, upload, part, place=incoming.keep
            )
            if replaced is not None:
                await asyncio.to_thread(self._files.remove, replaced)
            return part

    async def complete(self, upload: Upload, claims: Sequence[PartClaim]) -> None:
        """Make the parts one file, in the order of their numbers.

        To complete an upload again does nothing: the answer to the first time may have been lost.

        Raises:
            BadRequest: a part is not what the caller says it is.
            Unauthorized: its key has ended meanwhile.
        """
        if not upload.in_parts:
            raise BadRequest("This upload does not come in parts.")
        async with self._joining.place(upload.key_id):
            # Another request may have completed it while this one waited.
            if await asyncio.to_thread(self._store.is_closed, upload.id):
                return
            parts = await asyncio.to_thread(self._store.parts, upload.id)
            chosen = _chosen(parts, claims)
            async with self._incoming(self._beginning_of(upload)) as incoming:
                await asyncio.to_thread(self._join, chosen, incoming)
                file = _described(incoming, upload)
                await self._check_key(upload.key_id)
                gone = await to_writer_thread(self._store.finish, upload, file, place=incoming.keep)
        await asyncio.to_thread(self._files.remove, *gone)

    def sweep(self) -> None:
        """Remove files and uploads whose time is over. Blocks."""
        self._store.expire(self._files)

    def _beginning_of(self, upload: Upload) -> Callable[[], IncomingFile]:
        return partial(self._files.receive_as, upload.file_id, content_type=upload.content_type)

    @asynccontextmanager
    async def _received(
        self,
        key_id: str | None,
        body: AsyncIterator[bytes],
        max_size: int,
        begin: Callable[[], IncomingFile],
    ) -> AsyncIterator[IncomingFile]:
        """A file that has come whole; the block commits it, or it is given up.

        What is on its way counts against the limits, and the key must be good to the end.
        """
        with self._quota.reservation(key_id) as room:
            async with self._incoming(begin) as incoming:
                await _write(incoming, body, max_size, room)
                await asyncio.to_thread(incoming.flush)
                await self._check_key(key_id)
                yield incoming
            room.keep()

    @asynccontextmanager
    async def _incoming(self, begin: Callable[[], IncomingFile]) -> AsyncIterator[IncomingFile]:
        """A file to be written, which is given up unless it is kept."""
        stack = ExitStack()
        try:
            yield await in_thread(lambda: stack.enter_context(begin()))
        finally:
            await asyncio.to_thread(stack.close)

    def _join(self, parts: Sequence[Part], incoming: IncomingFile) -> None:
        for part in parts:
            try:
                for piece in self._files.pieces(part.file_id):
                    incoming.write(piece)
            except FileNotFoundError as error:
                raise BadRequest(f"Part {part.number} was sent again meanwhile.") from error
        incoming.flush()


async def _write(
    incoming: IncomingFile, body: AsyncIterator[bytes], max_size: int, room: Reservation
) -> None:
    pending = bytearray()
    size = 0
    async for chunk in body:
        size += len(chunk)
        if size > max_size:
            raise UploadTooLarge(max_size)
        pending += chunk
        if len(pending) >= _WRITE_BYTES:
            await asyncio.to_thread(_write_within, room, incoming, bytes(pending))
            pending.clear()
    await asyncio.to_thread(_write_within, room, incoming, bytes(pending))


def _write_within(room: Reservation, incoming: IncomingFile, data: bytes) -> None:
    room.add(len(data))
    incoming.write(data)


def _chosen(parts: Sequence[Part], claims: Sequence[PartClaim]) -> list[Part]:
    """The parts that the caller names, in order. Clients name them in the order they arrived."""
    by_number = {part.number: part for part in parts}
    chosen = []
    for claim in sorted(claims, key=lambda claim: claim.number):
        part = by_number.pop(claim.number, None)
        if part is None or claim.etag.strip('"') != part.sha256:
            raise BadRequest(f"Part {claim.number} is not one that was uploaded; send it again.")
        chosen.append(part)
    if not chosen:
        raise BadRequest("An upload is completed by the list of its parts, and this one is empty.")
    return chosen


def _described(incoming: IncomingFile, new: NewUpload) -> StoredArtifact:
    return StoredArtifact(
        id=incoming.id,
        kind="upload",
        name=new.file_name,
        content_type=new.content_type,
        size=incoming.size,
        sha256=incoming.sha256,
    )
