"""A data folder whose server is killed and started again on one port; a receiver of webhooks."""

import http.server
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
from client_record import Findings, Ledger, by_job, raise_if_asked_to_try_again
from fork_server import Failpoint, ForkedProcess, fork_server
from job_fixtures import Where, let_leases_lapse, sql
from pydantic import SecretStr
from servers import COMMAND, SCRIPTED, command_line, launch

from server.db.database import Database
from server.files.s3 import S3Files
from server.files.unknown_files import remove_unknown_objects, unknown_objects
from server.jobs.retention import Retention


class Receiver(http.server.ThreadingHTTPServer):
    """Takes webhooks; it refuses the first `refusals` of them."""

    daemon_threads = True

    def __init__(self, refusals: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hooks: list[dict[str, Any]] = []
        self.refusals = refusals

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        sent = self.rfile.read(size := int(self.headers["content-length"]))
        if len(sent) < size:
            return  # its sender was killed
        body = json.loads(sent)
        is_refused = self.server.refusals > 0
        if is_refused:
            self.server.refusals -= 1
        else:
            self.server.hooks.append(body)
        self.send_response(500 if is_refused else 200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def receiving(refusals: int = 0) -> Iterator[Receiver]:
    with Receiver(refusals) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, daemon=True)
        thread.start()
        yield receiver
        receiver.shutdown()


class CrashSite:
    """One data folder, and the server that has it now, if any.

    Its database and its files are in the folder, or where the environment says.
    """

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.database = self.data / "jobs.sqlite3"
        url = environment.get("COSMOS_DATABASE")
        self.where: Where = self.database if url is None else SecretStr(url)
        self.ledger = Ledger()
        self._has_peers = False
        self._options = options
        self._environment = environment
        self._port = _free_port()
        self.process: subprocess.Popen[str] | ForkedProcess | None = None
        self.was_ended = False
        """Whether the last one was sent a signal to end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no server behind, whatever became of the test."""
        if self.process is not None:
            self.end(signal.SIGKILL)

    def join(self, ledger: Ledger) -> None:
        """Be one of the servers that share a database and files, and whose clients have this
        record; leases lapse by themselves then."""
        self.ledger = ledger
        self._has_peers = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def is_shared(self) -> bool:
        """Whether its database is PostgreSQL's."""
        return isinstance(self.where, SecretStr)

    def client(self) -> httpx.Client:
        """A client that raises `AskedToTryAgain` for such an answer."""
        return client_of(self)

    def start(
        self, failpoint: Failpoint | None = None, program: Sequence[str | Path] = (COMMAND,)
    ) -> None:
        """Start the server, to be killed at a failpoint or not; it may be gone by the return.

        Without a failpoint, `program` is that of `launch`.
        """
        self.was_ended = False
        options = ["--port", str(self._port), *self._options]
        if self.is_shared and not self._has_peers:
            # Others might use the database: what a server had in hand is taken over after a while.
            let_leases_lapse(self.where)
        if failpoint is None:
            self.process = launch(self.folder, *options, program=program, **self._environment)
        else:
            environment = {**os.environ, **SCRIPTED, **self._environment}
            arguments = command_line(self.folder, *options)
            self.process = fork_server().start(arguments, environment, failpoint)
        while self.is_alive() and not self._listens():
            time.sleep(0.01)
        assert self.is_alive() or failpoint is not None, "the server did not start"

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the server a signal, and wait for its end; the exit code."""
        assert self.process is not None
        self.was_ended = True
        self.process.send_signal(number)
        return self.wait()

    def wait(self, timeout_s: float = 60.0) -> int:
        assert self.process is not None
        code = self.process.wait(timeout_s)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def settle(self, client: httpx.Client, timeout_s: float = 60.0) -> None:
        """Ask again for what was never acknowledged, and wait until every job is done.

        One that is not done in time is for `check` to find.
        """
        deadline = time.monotonic() + timeout_s
        for record in list(self.ledger.records.values()):
            if record.job_id is None:
                self.ledger.submit(client, record.wish)
        while (waiting := self.ledger.unfinished()) and time.monotonic() < deadline:
            for record in waiting:
                self.ledger.look(client, record)
            time.sleep(0.02)

    def check(self, client: httpx.Client, receiver: Receiver, timeout_s: float = 60.0) -> Findings:
        """What a quiet server has to say for itself, once all webhooks are sent."""
        due = "SELECT job_id, tries, last_error FROM webhooks WHERE not_before IS NOT NULL"
        deadline = time.monotonic() + timeout_s
        while waiting := self.rows(due):
            assert time.monotonic() < deadline, f"webhooks that were not sent: {waiting}"
            time.sleep(0.02)
        deaths = dict(self.rows("SELECT id, worker_deaths FROM jobs"))
        return self.ledger.check(client, by_job(receiver.hooks), deaths)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return sql(self.where, query)

    def orphans(self) -> list[str]:
        """Files without a row and rows without a file, when the server has ended; and processes
        that it left behind.

        A bucket is cleared first as by a sweep, and as by a start and `cosmos-serve files prune` a
        day later.
        """
        files = self._files()
        known = {row[0] for row in self.rows("SELECT id FROM artifacts")}
        known |= {row[0] for row in self.rows("SELECT file_id FROM upload_parts")}
        scratch = self.data / "scratch"
        left = [str(each) for each in scratch.iterdir()] if scratch.exists() else []
        return [
            *(f"the file {name} has no row" for name in files if name not in known),
            *(f"the row {name} has no file" for name in known if name not in files),
            *(f"{path} was left behind" for path in left),
            *(f"the process {pid} was left behind" for pid in processes_of(self.folder)),
        ]

    def _files(self) -> set[str]:
        bucket = self._environment.get("COSMOS_FILES")
        if bucket is None:
            return {file.name for file in (self.data / "files").glob("*/*")}
        files = S3Files.at(bucket, scratch=self.folder)
        with closing(Database(self.where)) as database:
            Retention(database, files, gone=lambda: None).sweep()
            remove_unknown_objects(database, files, old_s=-3600.0)
            files.remove(*unknown_objects(database, files, old_s=-3600.0))
        return set(files.ids())

    def table_faults(self) -> list[str]:
        """What is wrong with the tables themselves."""
        twice = "SELECT {0}, count(*) FROM {1} WHERE {2} GROUP BY {0} HAVING count(*) > 1"
        keys = self.rows(twice.format("idempotency_key", "jobs", "idempotency_key IS NOT NULL"))
        videos = self.rows(twice.format("job_id", "artifacts", "kind = 'video'"))
        running = self.rows("SELECT id FROM jobs WHERE status != 'COMPLETED'")
        held = self.rows(
            "SELECT id FROM jobs WHERE claimed_by IS NOT NULL UNION ALL "
            "SELECT job_id FROM webhooks WHERE claimed_by IS NOT NULL"
        )
        integrity = [] if self.is_shared else self.rows("PRAGMA integrity_check")
        return [
            *(f"{count} jobs have the key {key}" for key, count in keys),
            *(f"the job {job_id} has {count} videos" for job_id, count in videos),
            *(f"the job {job_id} is not done" for (job_id,) in running),
            *(f"the job {job_id}, or its webhook, is still in hand" for (job_id,) in held),
            *(text for (text,) in integrity if text != "ok"),
        ]


class _Proxy(httpx.HTTPTransport):
    """Sends each request to one of the servers that listen, as a proxy in front of them does."""

    def __init__(self, sites: Sequence[CrashSite]) -> None:
        super().__init__()
        self._sites = sites

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        *others, last = random.sample(self._sites, len(self._sites))
        for site in others:
            with suppress(httpx.ConnectError):
                return self._send(request, site)
        return self._send(request, last)

    def _send(self, request: httpx.Request, site: CrashSite) -> httpx.Response:
        request.url = request.url.copy_with(port=httpx.URL(site.url).port)
        return super().handle_request(request)


def client_of(*sites: CrashSite) -> httpx.Client:
    """A client of servers behind a proxy. It raises `AskedToTryAgain` for such an answer."""
    hooks = {"response": [raise_if_asked_to_try_again]}
    transport = _Proxy(sites)
    return httpx.Client(base_url=sites[0].url, timeout=30, event_hooks=hooks, transport=transport)


def workers_of(folder: Path) -> list[psutil.Process]:
    """The worker processes that serve this folder."""
    return processes_of(folder, "workers.loop")


def processes_of(folder: Path, doing: str = "") -> list[psutil.Process]:
    """The processes whose command line names a file within the folder, and what they do."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if process.pid != os.getpid() and f"{folder}/" in line and doing in line:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
