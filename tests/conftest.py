"""Fixtures that several files share."""

import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import structlog
from job_fixtures import Clock, Place, Where
from pydantic import SecretStr
from servers import serving, settings_in

pytest_plugins = ["browsers", "client_servers", "client_table", "postgres_server", "s3_server"]


def pytest_configure() -> None:
    """Keep what tests write in memory where there is room: most of it is synced to the disk.

    Of processes that test side by side each has one core for its sums: threads that wait for each
    other's turns make torch many times slower.

    Bytecode is kept, also where the environment says otherwise: each process that tests would
    compile all tests, and each of the many programs that they start all of the server.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).free > 4 * 2**30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(shared))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that at the end no process waits for another."""
    items.sort(key=lambda item: item.path.parent.name not in ("faults", "model", "workers"))


for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    # As with `nohup make test &`. Programs that tests start would inherit that a signal is
    # ignored; one that has a handler here has its default there.
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


@pytest.fixture(autouse=True)
def plain_log() -> Iterator[None]:
    """A server that a test starts in this process logs to that test's stderr, which is closed."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.cluster)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    """Where a database is, as `Database` takes it: of either kind. Beside PostgreSQL files are in
    S3, see `files_beside`."""
    if request.param == "sqlite":
        return tmp_path / "jobs.sqlite3"
    request.getfixturevalue("bucket")
    url: SecretStr = request.getfixturevalue("postgres_database")
    return url


@pytest.fixture
def place(tmp_path: Path, where: Where) -> Iterator[Place]:
    place = Place(tmp_path, where)
    yield place
    place.database.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of one server for all the tests of a file; their jobs do not meet."""
    async with serving(settings_in(tmp_path_factory.mktemp("server"))) as client:
        yield client
