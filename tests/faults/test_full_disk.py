"""A disk that is full to the last byte: an error that says so, nothing broken, then as before."""

import asyncio
import contextlib
import os
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from client_programs import not_here
from queue_calls import SUBMIT, result_of, status_of, submit, until, until_prepared
from servers import picture, request_of, serving, settings_in
from structlog.testing import capture_logs
from upload_calls import UPLOAD, upload

SIZE_MIB = 24
MIB = 1024 * 1024


class SmallDisk:
    """A file system of its own, of a few megabytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave not one page."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (MIB, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def fill_but(self, free: int) -> None:
        self.fill()
        os.truncate(self._ballast, self._ballast.stat().st_size - free)

    def clear(self) -> None:
        self._ballast.unlink()

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.folder / "jobs.sqlite3")) as database:
            return database.execute(query).fetchall()

    def parts(self) -> list[Path]:
        return list(self.folder.rglob("*.part"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "data"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "cosmos-test", str(folder)]
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True)
    if mounted.returncode != 0:
        not_here(f"A small disk needs the right to mount: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
async def client(disk: SmallDisk, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings_in(tmp_path, min_free_disk_mib=0)) as client:
        yield client
    assert disk.rows("PRAGMA integrity_check") == [("ok",)]
    assert disk.parts() == []


async def test_what_does_not_fit_is_refused_and_fits_when_there_is_room(
    client: httpx.AsyncClient, disk: SmallDisk
) -> None:
    disk.fill()
    refused = [
        await client.post(UPLOAD, content=os.urandom(2 * MIB)),
        await client.post(SUBMIT, json=request_of()),
        await client.post("/files/upload/multipart", headers={"x-fal-file-name": "a.bin"}),
    ]
    for answer in refused:
        assert answer.status_code == 507, answer.text
        assert answer.json() == {
            "detail": "The server's disk is full. Try again when there is room."
        }
        assert answer.headers["retry-after"]
    disk.clear()

    assert disk.rows("SELECT count(*) FROM jobs") == [(0,)]
    assert (await client.get(await upload(client, picture()))).content == picture()
    assert (await result_of(client, await submit(client))).status_code == 200


async def test_a_video_that_does_not_fit_fails_its_job_and_no_other(
    client: httpx.AsyncClient, disk: SmallDisk
) -> None:
    disk.fill_but(4 * MIB)

    failed = await result_of(client, await submit(client, f"bytes {8 * MIB}"))
    other = await result_of(client, await submit(client, "bytes 1000"))

    assert failed.status_code == 500
    assert "disk is full" in failed.json()["detail"]
    assert failed.headers["x-fal-needs-retry"] == "true"
    assert other.status_code == 200


async def test_a_job_that_ends_on_a_full_disk_is_written_when_there_is_room(
    client: httpx.AsyncClient, disk: SmallDisk
) -> None:
    job = await submit(client, "sleep 1; bytes 1000")
    await until(client, job, "IN_PROGRESS")
    with capture_logs() as logs:
        disk.fill()
        await _until_the_tables_are_full(client)
        while not any("cannot be written" in line["event"] for line in logs):
            await asyncio.sleep(0.05)
    assert (await status_of(client, job)).json()["status"] == "IN_PROGRESS"

    disk.clear()

    assert "disk is full" in (await result_of(client, job)).json()["detail"]
    lines = (await status_of(client, job, logs="1")).json()["logs"]
    assert any("Step 2 of 2" in line["message"] for line in lines), "its log was lost"
    assert (await result_of(client, await submit(client))).status_code == 200


async def test_a_start_on_a_full_disk_gives_what_is_there_and_goes_on_when_there_is_room(
    disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.app.TRY_AGAIN_MAX_S", 0.05)
    settings = settings_in(tmp_path, min_free_disk_mib=0)
    async with serving(settings) as client:
        done = await submit(client)
        await result_of(client, done)
        await client.post("/admin/queue/pause")
        ran = await submit(client)
        await until_prepared(client, ran)
    with closing(sqlite3.connect(disk.folder / "jobs.sqlite3")) as database:
        # As a server leaves it that is killed, in a row that the reserve has no room for.
        database.execute(
            "UPDATE jobs SET status = 'IN_PROGRESS', idempotency_key = hex(zeroblob(400000)) "
            "WHERE finished_at IS NULL"
        )
        database.execute("DELETE FROM switches")
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for file in disk.folder.glob("jobs.sqlite3-[ws]*"):
        file.unlink()  # as a server that ends does: SQLite has to make them again
    disk.fill()

    with capture_logs() as logs:
        async with serving(settings) as client:
            assert (await status_of(client, done)).json()["status"] == "COMPLETED"
            disk.clear()
            assert (await result_of(client, ran)).status_code == 200
    assert "taking up jobs" in [line.get("during") for line in logs], logs


async def _until_the_tables_are_full(client: httpx.AsyncClient) -> None:
    """Use up the room that the database has set aside."""
    for _ in range(2000):
        answer = await client.post("/rest/storage/upload/initiate", json={"file_name": "x" * 900})
        if answer.status_code == 507:
            return
    raise AssertionError("the tables never were full")
