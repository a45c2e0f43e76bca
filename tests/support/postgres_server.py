"""A PostgreSQL server for tests, of Debian's package. It refuses to run as root: `nobody` does."""

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from client_programs import not_here
from pydantic import SecretStr
from sqlalchemy import make_url

from server.db.database import Database
from server.db.postgres import open_postgres

NOBODY = 65534
PASSWORD = "a-secret-of-the-database"


class PostgresServer:
    """One server, with a folder of its own, on a port of this machine."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._data = folder / "data"
        self._programs = programs
        self._user = NOBODY if os.geteuid() == 0 else None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        secret = folder / "password"
        secret.write_text(PASSWORD)
        for path in (folder, secret):
            if self._user is not None:
                os.chown(path, NOBODY, NOBODY)
        login = ["--username=cosmos", f"--pwfile={secret}", "--auth=scram-sha-256"]
        self._run("initdb", "--no-sync", "--encoding=UTF8", "--locale=C", *login)
        self._numbers = itertools.count(1)

    def start(self) -> None:
        options = f"-p {self.port} -k {self._data} -c listen_addresses=127.0.0.1"
        log = self._data.with_name("log")
        self._run("pg_ctl", "--wait", f"--log={log}", f"--options={options}", "start")

    def stop(self, mode: str = "immediate") -> None:
        """End it: `immediate` is as by the loss of power."""
        self._run("pg_ctl", "--wait", f"--mode={mode}", "stop")

    def kill(self) -> None:
        """End it as the kernel does that is short of memory; its children notice, and end."""
        server = psutil.Process(self.pid)
        children = server.children()
        server.kill()
        _, alive = psutil.wait_procs([server, *children], timeout=30)
        assert not alive, alive

    @property
    def pid(self) -> int:
        """The process whose children work for it, while it runs."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def url(self, name: str) -> SecretStr:
        return SecretStr(f"postgresql+psycopg://cosmos:{PASSWORD}@127.0.0.1:{self.port}/{name}")

    @contextmanager
    def database(self, like: str = "template1") -> Iterator[SecretStr]:
        """A database of its own, with what another one has."""
        name = f"cosmos_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {like}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """Execute a statement that may not be in a transaction."""
        engine = open_postgres(self.url("postgres"))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            db.exec_driver_sql(statement)
        engine.dispose()

    def _run(self, program: str, *options: str) -> None:
        ran = subprocess.run(
            [self._programs / program, f"--pgdata={self._data}", *options],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            user=self._user,
            group=self._user,
        )
        assert ran.returncode == 0, ran.stdout


@contextmanager
def running_postgres(within: Path | None = None) -> Iterator[PostgresServer]:
    """A server that runs meanwhile: in a folder of this one, or in memory where that can be."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        not_here("PostgreSQL is not installed: `make test-cluster` installs it.")
    if within is None and Path("/dev/shm").is_dir():
        within = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="cosmos-postgres-", dir=within))
    server = PostgresServer(folder, found[-1].parent)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server of this run; each test has databases of its own."""
    with running_postgres() as server:
        server.execute("CREATE DATABASE prepared")
        Database(server.url("prepared")).close()
        yield server


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> Iterator[SecretStr]:
    """An empty database with all tables."""
    with postgres.database(like="prepared") as url:
        yield url


def name_of(url: SecretStr) -> str:
    name = make_url(url.get_secret_value()).database
    assert name is not None
    return name
