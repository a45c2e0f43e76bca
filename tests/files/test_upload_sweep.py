"""What is removed when its time is over, and what a server that died left behind."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from job_fixtures import Where, files_beside
from sqlalchemy import insert, select

from server.db import tables
from server.db.database import Database
from server.errors import UnknownFile, UnknownUpload, UploadClosed
from server.files.access import READ_ALL, FileAccess
from server.files.local import LocalFiles
from server.files.public import PublicFiles
from server.files.quota import StorageQuota
from server.files.s3 import S3Files
from server.files.upload_reports import Uploaded, purge_uploads
from server.files.upload_store import KEPT_AFTERWARDS_S, UPLOAD_LIFETIME_S, NewUpload, UploadStore
from server.files.uploads import PartClaim, Uploads
from server.models import StoredArtifact

HOUR_S = 3600


@dataclass
class Disk:
    """The uploads of one folder, at a time that the test sets."""

    folder: Path
    where: Where
    now: float = 1_000_000.0
    files: LocalFiles | S3Files = field(init=False)
    uploads: Uploads = field(init=False)
    public: PublicFiles = field(init=False)

    def __post_init__(self) -> None:
        self.database = Database(self.where)
        self.files = files_beside(self.where, self.folder)
        store = UploadStore(self.database, now=lambda: self.now)
        quota = StorageQuota(self.database, max_bytes=10_000)
        self.uploads = Uploads(store, self.files, quota, max_size=1_000)
        self.public = PublicFiles(self.database, access=FileAccess(), now=lambda: self.now)

    async def upload(self, lifetime_s: float | None) -> StoredArtifact:
        return await self.uploads.receive(new(lifetime_s), body(b"a file"))

    def sweep(self) -> None:
        self.uploads.sweep()

    def purge(self) -> None:
        purge_uploads(self.database, self.files, Uploaded())

    def known(self) -> list[str]:
        """The files that have a row."""
        with self.database.read() as db:
            return list(db.execute(select(tables.artifacts.c.id)).scalars())

    def is_served(self, file: StoredArtifact) -> bool:
        try:
            return self.public.find(file.id, file.name, READ_ALL).size == file.size
        except UnknownFile:
            return False

    def is_kept(self, file: StoredArtifact) -> bool:
        return file.id in set(self.files.ids())


@pytest.fixture
def disk(tmp_path: Path, where: Where) -> Iterator[Disk]:
    disk = Disk(tmp_path, where)
    yield disk
    disk.database.close()


def new(lifetime_s: float | None = None) -> NewUpload:
    return NewUpload(
        key_id=None, file_name="a.txt", content_type="text/plain", lifetime_s=lifetime_s
    )


async def body(*chunks: bytes | Exception) -> AsyncIterator[bytes]:
    for chunk in chunks:
        if isinstance(chunk, Exception):
            raise chunk
        yield chunk


async def test_a_file_is_served_until_its_time_is_over_and_removed_after(disk: Disk) -> None:
    brief, lasting = await disk.upload(60), await disk.upload(None)

    disk.now += 59
    disk.uploads.sweep()
    assert disk.is_served(brief)
    disk.now += 1
    assert not disk.is_served(brief)
    assert disk.is_kept(brief)
    disk.uploads.sweep()
    assert not disk.is_kept(brief)
    disk.now += 1e9
    disk.uploads.sweep()
    assert disk.is_served(lasting)


@pytest.mark.parametrize("remove", [Disk.sweep, Disk.purge])
async def test_a_removal_that_is_cut_short_leaves_no_unknown_file_and_serves_nothing(
    disk: Disk, remove: Callable[[Disk], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await disk.upload(60)
    disk.now += 60

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(disk.files, "try_remove", die)
        with pytest.raises(KeyboardInterrupt):
            remove(disk)
    disk.now -= 60
    assert disk.is_kept(file)
    assert disk.known() == [file.id]
    assert not disk.is_served(file)

    remove(disk)
    assert not disk.is_kept(file)
    assert disk.known() == []


async def test_the_time_of_a_file_begins_when_it_is_there(disk: Disk) -> None:
    upload = await disk.uploads.begin(new(60), in_parts=False)
    disk.now += 100
    file = await disk.uploads.put(upload, body(b"a file"))

    assert disk.is_served(file)
    disk.now += 60
    assert not disk.is_served(file)


async def test_an_upload_that_nobody_finishes_ends_with_its_parts(disk: Disk) -> None:
    upload = await disk.uploads.begin(new(), in_parts=True)
    part = await disk.uploads.put_part(upload, 1, body(b"x"))
    # By this `UnknownFiles` tells parts from videos.
    assert part.file_id.startswith("part-")

    disk.now += UPLOAD_LIFETIME_S
    with pytest.raises(UploadClosed):
        await disk.uploads.find(upload.id)
    disk.uploads.sweep()
    assert part.file_id in set(disk.files.ids())
    disk.now += KEPT_AFTERWARDS_S
    disk.uploads.sweep()
    with pytest.raises(UnknownUpload):
        await disk.uploads.find(upload.id)
    assert list(disk.files.ids()) == []


async def test_a_file_that_began_to_come_in_time_may_come_to_its_end(disk: Disk) -> None:
    upload = await disk.uploads.begin(new(), in_parts=False)
    disk.now += UPLOAD_LIFETIME_S - 1
    found = await disk.uploads.find(upload.id)
    disk.now += 1800
    disk.uploads.sweep()

    assert disk.is_served(await disk.uploads.put(found, body(b"at last")))


async def test_what_is_finished_is_remembered_no_longer_than_what_is_not(disk: Disk) -> None:
    upload = await disk.uploads.begin(new(), in_parts=True)
    part = await disk.uploads.put_part(upload, 1, body(b"x"))
    await disk.uploads.complete(upload, [PartClaim(1, part.sha256)])
    disk.now += UPLOAD_LIFETIME_S + KEPT_AFTERWARDS_S
    disk.uploads.sweep()

    with pytest.raises(UnknownUpload):
        await disk.uploads.find(upload.id)
    assert disk.public.find(upload.file_id, "a.txt", READ_ALL).size == 1


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), asyncio.CancelledError()])
async def test_a_file_that_breaks_off_leaves_nothing(disk: Disk, error: BaseException) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"the begin"
        raise error

    upload = await disk.uploads.begin(new(), in_parts=False)
    for work in (disk.uploads.receive(new(), broken()), disk.uploads.put(upload, broken())):
        with pytest.raises(type(error)):
            await work

    assert [path for path in disk.folder.rglob("*/*/*") if path.is_file()] == []
    assert disk.is_served(await disk.uploads.put(upload, body(b"again")))


async def test_the_row_of_a_file_that_is_not_there_is_never_committed(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await disk.uploads.begin(new(), in_parts=False)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        with disk.files.receive() as incoming:
            full.setattr(type(incoming), "keep", refuse)
        with pytest.raises(OSError, match="No space left"):
            await disk.uploads.put(upload, body(b"a file"))

    with pytest.raises(UnknownFile):
        disk.public.find(upload.file_id, "a.txt", READ_ALL)
    assert disk.is_served(await disk.uploads.put(upload, body(b"a file")))


async def test_more_uploads_are_forgotten_than_a_statement_has_parameters_for(disk: Disk) -> None:
    row = {
        "file_id": "0",
        "file_name": "a.txt",
        "content_type": "text/plain",
        "max_size": 1,
        "in_parts": True,
        "expires_at": disk.now,
    }
    with disk.database.write() as db:
        db.execute(insert(tables.uploads), [{**row, "id": str(n)} for n in range(33_000)])
    disk.now += KEPT_AFTERWARDS_S
    disk.uploads.sweep()
    with disk.database.read() as db:
        assert db.execute(select(tables.uploads.c.id).limit(1)).first() is None
