"""The limits of uploads hold for what is on its way as well."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from job_fixtures import Where

from server.db.database import Database
from server.errors import KeyStorageFull, StorageFull
from server.files.local import LocalFiles
from server.files.quota import StorageQuota
from server.files.upload_store import NewUpload, UploadStore
from server.files.uploads import PartClaim, Uploads

MIB = 1024 * 1024
LIMIT, KEY_LIMIT = 6 * MIB, 4 * MIB


class Folder:
    """The uploads of one folder."""

    def __init__(self, root: Path, where: Where) -> None:
        self.root = root
        self.database = Database(where)
        self.files = LocalFiles(root / "files")
        self.quota = StorageQuota(self.database, max_bytes=LIMIT, max_key_bytes=KEY_LIMIT)
        self.uploads = Uploads(
            UploadStore(self.database), self.files, self.quota, max_size=KEY_LIMIT
        )

    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.root.glob("files/*/*"))

    async def until_bytes(self, size: int) -> None:
        while self.bytes() != size:
            await asyncio.sleep(0.005)


@pytest.fixture
def folder(tmp_path: Path, where: Where) -> Iterator[Folder]:
    folder = Folder(tmp_path, where)
    yield folder
    folder.database.close()


def new(key_id: str | None) -> NewUpload:
    return NewUpload(key_id=key_id, file_name="a.bin", content_type="text/plain")


async def body(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


class Sender:
    """A caller that has sent 2 MiB of a file, and holds back its end."""

    def __init__(self, folder: Folder, key_id: str) -> None:
        self._may_end: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.file = asyncio.create_task(folder.uploads.receive(new(key_id), self._body()))

    async def end(self) -> None:
        self._may_end.set_result(b"")
        await self.file

    async def break_off(self) -> None:
        self._may_end.set_exception(ConnectionResetError())
        with pytest.raises(ConnectionResetError):
            await self.file

    async def _body(self) -> AsyncIterator[bytes]:
        yield bytes(2 * MIB)
        yield await self._may_end


async def test_what_is_on_its_way_counts_against_the_limits(folder: Folder) -> None:
    first, second = Sender(folder, "mine"), Sender(folder, "mine")
    await folder.until_bytes(4 * MIB)
    upload = await folder.uploads.begin(new("mine"), in_parts=True)
    with pytest.raises(KeyStorageFull, match="'mine'"):
        await folder.uploads.put_part(upload, 1, body(b"x"))
    third = Sender(folder, "yours")
    await folder.until_bytes(6 * MIB)
    with pytest.raises(StorageFull):
        await folder.uploads.receive(new("yours"), body(bytes(MIB)))
    assert folder.bytes() == 6 * MIB, "what was refused is not on the disk"

    await first.break_off()
    await second.end()

    with pytest.raises(StorageFull):
        await folder.uploads.receive(new("yours"), body(bytes(MIB), bytes(MIB), b"x"))
    await folder.uploads.receive(new("yours"), body(bytes(MIB), bytes(MIB)))
    await third.end()
    assert folder.bytes() == 6 * MIB


async def test_room_that_another_process_made_is_found(folder: Folder) -> None:
    await folder.uploads.receive(new("mine"), body(bytes(KEY_LIMIT)))
    with folder.database.write() as db:
        db.exec_driver_sql("DELETE FROM artifacts")

    await folder.uploads.receive(new("mine"), body(bytes(KEY_LIMIT)))


async def test_a_part_that_comes_while_its_upload_is_completed_leaves_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await folder.uploads.begin(new("mine"), in_parts=True)
    first = await folder.uploads.put_part(upload, 1, body(b"first"))
    join, loop = folder.uploads._join, asyncio.get_running_loop()

    def join_late(*given: object) -> None:
        late = folder.uploads.put_part(upload, 2, body(bytes(KEY_LIMIT - 5)))
        asyncio.run_coroutine_threadsafe(late, loop).result()
        join(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(folder.uploads, "_join", join_late)
    await folder.uploads.complete(upload, [PartClaim(1, first.sha256)])

    assert list(folder.files.ids()) == [upload.file_id]
    await folder.uploads.receive(new("mine"), body(bytes(KEY_LIMIT - 5)))


async def test_an_upload_that_is_completed_twice_at_once_is_joined_once(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await folder.uploads.begin(new("mine"), in_parts=True)
    part = await folder.uploads.put_part(upload, 1, body(b"all"))
    join, joined = folder.uploads._join, []

    def count(*given: object) -> None:
        joined.append(given)
        join(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(folder.uploads, "_join", count)
    claims = [PartClaim(1, part.sha256)]
    await asyncio.gather(*(folder.uploads.complete(upload, claims) for _ in range(5)))

    assert len(joined) == 1
