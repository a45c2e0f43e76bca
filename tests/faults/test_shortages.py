"""What the machine is short of for a while ends no job, and costs nobody who only reads."""

import asyncio
import errno
import os
import socket
import sqlite3
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import psycopg
import pytest
import pytest_asyncio
from http_sites import fetch, fetcher
from queue_calls import RUN, SUBMIT, cancel, result_of, status_of, submit, until_prepared
from queue_calls import until as until_status
from receivers import until
from servers import BASE_URL, picture, request_of, serving, settings_in
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from server.api.status_cache import StatusCache
from server.auth.authenticator import Authenticator
from server.db import tables
from server.disk import shortage_of
from server.errors import DatabaseDamaged, DiskFull, Shortage
from server.files.local import IncomingLocalFile, LocalFiles
from server.inputs.decoder import MediaDecoder
from server.jobs.store import JobStore
from server.tasks import WRITERS


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def database_error(code: int) -> OperationalError:
    original = sqlite3.OperationalError("the words do not matter")
    original.sqlite_errorcode = code
    return OperationalError("SELECT 1", {}, original)


def postgres_error(original: psycopg.Error) -> OperationalError:
    return OperationalError("SELECT 1", {}, original)


SHORTAGES: dict[str, Callable[[], Exception]] = {
    "locked tables": lambda: database_error(sqlite3.SQLITE_BUSY),
    "an I/O error of the tables": lambda: database_error(sqlite3.SQLITE_IOERR | (3 << 8)),
    "tables that cannot be opened": lambda: database_error(sqlite3.SQLITE_CANTOPEN),
    "no descriptors": lambda: system_error(errno.EMFILE),
    "no descriptors of the system": lambda: system_error(errno.ENFILE),
    "no threads": lambda: RuntimeError("can't start new thread"),
    "no processes": lambda: system_error(errno.EAGAIN),
    "no memory": MemoryError,
    "no memory of the system": lambda: system_error(errno.ENOMEM),
    "a disk with errors": lambda: system_error(errno.EIO),
    "a disk that is read-only": lambda: system_error(errno.EROFS),
    "a full disk": lambda: system_error(errno.ENOSPC),
    "a full quota": lambda: system_error(errno.EDQUOT),
    "full tables": lambda: database_error(sqlite3.SQLITE_FULL),
    "a lost connection to PostgreSQL": lambda: postgres_error(psycopg.OperationalError("lost")),
    "a connection to PostgreSQL that is not made in time": lambda: postgres_error(
        psycopg.errors.ConnectionTimeout("connection timeout expired")
    ),
}
OTHERS = [
    ValueError("no"),
    RuntimeError("no"),
    FileNotFoundError(errno.ENOENT, "No such file"),
    PermissionError(errno.EACCES, "Permission denied"),
    TimeoutError(),
    # The number is that of EIO, and means that the other side broke off.
    ssl.SSLError(ssl.SSL_ERROR_SYSCALL, "EOF occurred"),
    socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    database_error(sqlite3.SQLITE_CORRUPT),
    postgres_error(psycopg.InterfaceError("the connection is closed")),
]

pytestmark = pytest.mark.asyncio(loop_scope="module")
kinds = pytest.mark.parametrize("kind", SHORTAGES)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("inputs.prepare.TRY_AGAIN_S", "tasks.TRY_AGAIN_S", "dispatch.run.RUN_AGAIN_S"):
        monkeypatch.setattr(f"server.{name}", 0.01)


@kinds
async def test_a_shortage_is_known_behind_the_errors_that_it_caused(kind: str) -> None:
    plain = SHORTAGES[kind]()
    caused = ValueError("The picture cannot be had.")
    caused.__cause__ = ExceptionGroup("of a task", [plain])

    for error in (plain, caused):
        found = shortage_of(error)
        assert found is not None
        assert isinstance(found, DiskFull) == kind.startswith("a full") | (kind == "full tables")


@pytest.mark.parametrize("error", OTHERS, ids=repr)
async def test_other_errors_are_no_shortages(error: Exception) -> None:
    assert shortage_of(error) is None
    assert shortage_of(ExceptionGroup("both", [error, MemoryError()])) is None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of one server for all the tests here, whose pictures have processes."""
    settings = settings_in(tmp_path_factory.mktemp("server"))
    async with serving(settings, decoder=MediaDecoder()) as client:
        yield client


def failing(owner: type, name: str, kind: str, patch: pytest.MonkeyPatch, times: int) -> list[str]:
    """Have a method fail so many times; its calls."""
    work, calls = getattr(owner, name), []

    def fail_first(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) <= times:
            raise SHORTAGES[kind]()
        return work(*args, **kwargs)

    patch.setattr(owner, name, fail_first)
    return calls


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (MediaDecoder, "_start"),
        (JobStore, "awaiting_inputs"),
        (JobStore, "set_inputs"),
        (JobStore, "claim"),
        (LocalFiles, "read"),
        (JobStore, "record"),
        (JobStore, "finish"),
    ],
)
@pytest.mark.parametrize("kind", ["locked tables", "no descriptors", "no threads", "no memory"])
async def test_an_accepted_job_waits_and_is_tried_again(
    client: httpx.AsyncClient, owner: type, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, capture_logs() as logs:
        calls = failing(owner, name, kind, patch, times=2)
        job = await submit(client)
        result = await result_of(client, job)

    assert result.status_code == 200, result.text
    assert calls
    assert [line for line in logs if line["event"] == "Unexpected error"] == []


@pytest.mark.parametrize("kind", ["locked tables", "no descriptors", "no threads", "no memory"])
async def test_a_cancel_is_heard_though_it_could_not_be_asked_for_at_first(
    client: httpx.AsyncClient, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await submit(client, "sleep 0.1", num_inference_steps=50)
    await until_status(client, job, "IN_PROGRESS")
    with monkeypatch.context() as patch, capture_logs() as logs:
        calls = failing(JobStore, "runs_to_stop", kind, patch, times=1)
        await cancel(client, job)
        result = await result_of(client, job)

    assert (result.status_code, calls) == (499, ["runs_to_stop"] * 2)
    assert [line for line in logs if line["event"] == "Unexpected error"] == []


async def test_a_run_that_is_short_of_something_is_begun_again_and_says_so(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing(LocalFiles, "receive", "no descriptors", patch, times=0)
        await client.post("/admin/queue/pause")
        job = await submit(client)
        await until_prepared(client, job)
        failing(LocalFiles, "receive", "no descriptors", patch, times=1)
        await client.post("/admin/queue/resume")
        assert (await result_of(client, job)).status_code == 200

    log = (await status_of(client, job, logs="1")).text
    assert "open as it may. Try again later. The video is made again." in log
    assert "try 2" in log


async def test_a_file_that_cannot_be_removed_meanwhile_does_not_end_the_job(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    discard = IncomingLocalFile.discard

    def discard_on_a_disk_that_can_only_be_read(file: IncomingLocalFile) -> None:
        discard(file)
        raise OSError(errno.EROFS, "Read-only file system")

    await client.post("/admin/queue/pause")
    job = await submit(client)
    await until_prepared(client, job)
    with monkeypatch.context() as patch:
        patch.setattr(IncomingLocalFile, "discard", discard_on_a_disk_that_can_only_be_read)
        failing(IncomingLocalFile, "write", "no descriptors", patch, times=1)
        await client.post("/admin/queue/resume")
        assert (await result_of(client, job)).status_code == 200


@kinds
async def test_who_cannot_be_accepted_is_told_to_come_back(
    client: httpx.AsyncClient, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = client._transport.app  # type: ignore[attr-defined]
    # What the server would log with a traceback is raised here.
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE_URL) as strict:
        with monkeypatch.context() as patch:
            failing(JobStore, "submit", kind, patch, times=1)
            refused = await strict.post(SUBMIT, json=request_of())
            accepted = await strict.post(SUBMIT, json=request_of())

    is_full = kind.startswith("a full") or kind == "full tables"
    assert refused.status_code == (507 if is_full else 503)
    assert refused.headers["retry-after"]
    assert refused.headers["x-fal-retryable"] == refused.headers["x-fal-needs-retry"] == "true"
    assert refused.headers["x-fal-request-id"]
    if not is_full:
        assert refused.json()["error_type"] == "runner_scheduling_failure"
        assert refused.headers["x-fal-error-type"] == "runner_scheduling_failure"
    assert accepted.status_code == 200


@pytest.mark.parametrize("path", [RUN, f"{RUN}/stream", SUBMIT])
async def test_who_was_accepted_is_answered_though_tables_cannot_be_read_for_a_while(
    client: httpx.AsyncClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        calls = failing(StatusCache, "get", "no descriptors", patch, times=2)
        answer = await client.post(path, json=request_of())

    assert answer.status_code == 200
    assert ("request_id" if path == SUBMIT else "video.mp4") in answer.text
    assert len(calls) > 2


async def test_a_stream_goes_on_though_its_key_cannot_be_looked_up_for_a_while(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await submit(client)
    with monkeypatch.context() as patch:
        calls = failing(Authenticator, "check_key", "no descriptors", patch, times=2)
        stream = await client.get(f"{SUBMIT}/requests/{job}/status/stream")

    assert "COMPLETED" in stream.text
    assert len(calls) > 2


@pytest.mark.parametrize(
    ("error", "status"),
    [(system_error(errno.EMFILE), 503), (FileNotFoundError(errno.ENOENT, "No such file"), 404)],
    ids=["no descriptors", "its time has just ended"],
)
async def test_a_file_that_cannot_be_opened_is_answered_with_an_error(
    client: httpx.AsyncClient, error: Exception, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise error

    sent = await client.post("/files/upload", content=picture())
    url = sent.json()["access_url"]
    with monkeypatch.context() as patch:
        patch.setattr(anyio, "open_file", refuse)
        refused = await client.get(url)

    assert refused.status_code == status
    assert ("retry-after" in refused.headers) == (status == 503)
    assert (await client.get(url)).content == picture()


async def test_a_job_that_can_be_neither_prepared_nor_refused_waits(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []

    def note(failures: int, *_: float) -> float:
        waits.append(failures)
        return 0.0

    def damaged(*_: object, **__: object) -> None:
        raise DatabaseDamaged

    monkeypatch.setattr("server.inputs.prepare.backoff_s", note)
    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "refuse_inputs", damaged)
        job = await submit(client, image_url="data:image/png;base64,AAAA")
        async with asyncio.timeout(30):
            await until(lambda: len(waits) >= 2)

    assert waits[:2] == [1, 2], "longer each time"
    assert (await result_of(client, job)).status_code == 422


async def test_a_damaged_database_is_an_error_that_says_what_to_do(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object, **__: object) -> None:
        raise DatabaseDamaged

    monkeypatch.setattr(JobStore, "submit", damaged)
    answer = await client.post(SUBMIT, json=request_of())

    assert answer.status_code == 500
    assert "put a copy of jobs.sqlite3 back" in answer.json()["detail"]


async def test_a_picture_that_we_have_no_descriptor_for_is_not_its_callers_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise system_error(errno.EMFILE)

    monkeypatch.setattr(anyio, "connect_tcp", refuse)
    with pytest.raises(Shortage):
        await fetch(fetcher(), "http://127.0.0.1:9/picture.png", max_bytes=100)


# Tables that another process holds.


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another connection holds the write lock of a server's tables."""
    with closing(sqlite3.connect(folder / "data" / "jobs.sqlite3", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


@pytest_asyncio.fixture(loop_scope="module")
async def impatient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    """A server that gives up on locked tables soon."""
    monkeypatch.setattr(tables, "BUSY_TIMEOUT_MS", 100)
    async with serving(settings_in(tmp_path)) as client:
        yield client


async def test_while_the_tables_are_locked_callers_are_told_and_jobs_wait(
    impatient: httpx.AsyncClient, tmp_path: Path
) -> None:
    running = await submit(impatient, "sleep 0.2; bytes 1000")
    waiting = await submit(impatient)
    with locked(tmp_path):
        answers = await asyncio.gather(
            *(impatient.post(SUBMIT, json=request_of()) for _ in range(2 * WRITERS))
        )
        ready = await impatient.get("/health/ready")

    assert {answer.status_code for answer in answers} == {503}
    assert "Another program holds the server's database." in answers[0].json()["detail"]
    assert ready.status_code == 503
    assert "Another program holds the server's database." in ready.text
    for job in (running, waiting):
        assert (await result_of(impatient, job)).status_code == 200


async def test_writers_that_wait_leave_threads_to_readers(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        job = await submit(client)
        await result_of(client, job)
        with locked(tmp_path):
            writers = [
                asyncio.create_task(client.post(SUBMIT, json=request_of())) for _ in range(50)
            ]
            await asyncio.sleep(0)
            for _ in range(20):
                assert (await client.get(f"{SUBMIT}/requests/{job}")).status_code == 200
            assert not any(writer.done() for writer in writers)
        assert {answer.status_code for answer in await asyncio.gather(*writers)} == {200}
