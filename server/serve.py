"""Serve one app on HTTP and, if asked, on HTTPS, until a signal ends it."""

import asyncio
import ctypes
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn
from fastapi import FastAPI

from server.app import create_app
from server.config.errors import SettingsError
from server.config.hub import forget_token
from server.config.settings import Settings
from server.connections.descriptors import RESERVED, connections_within, raise_limit
from server.connections.listener import Connections, Listener, on_loop_error
from server.connections.protocol import BoundedConfig
from server.data_folder import check_is_free, tell_stopping
from server.dispatch.drain import Drain
from server.log.setup import configure_log
from server.log.stderr import unblocked_stderr, unfailing
from server.workers.pulling_pool import CheckpointPull

GRACE_S = 5
"""How long answers that are being sent may take once the runs are over."""

_log = structlog.get_logger("server")


def serve(settings: Settings) -> None:
    """Run the server until a signal asks it to end, and let it drain; a second one ends it at once.

    Raises:
        SettingsError: an address, the certificate or the file with the key cannot be used.
        DataFolderError, DiskFull: the data folder cannot be used.
        CheckpointError: the checkpoint is not whole, or cannot be fetched.
        GuardrailMissing: the checkpoint requires a guardrail, and none is installed.
        ValueError: the settings name a device that is not there.
    """
    _check_certificate(settings)
    configure_log(settings.log_format)
    keep_heap_small()
    pull = CheckpointPull.wanted_by(settings)
    app = create_app(settings, pull=pull)
    if pull is not None:
        pull.prepare()
    forget_token()
    with unblocked_stderr():
        asyncio.run(_serve(app, settings))


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to us: two of them share one process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(app: FastAPI, settings: Settings) -> None:
    descriptors = raise_limit()
    connections = _connections(settings, descriptors)
    asyncio.get_running_loop().set_exception_handler(on_loop_error)
    # Also said of a port in use, if it is for the server of the same folder, which is ending.
    check_is_free(settings.data)
    listeners = [_listener(app, settings, connections, settings.port)]
    if settings.tls_port is not None:
        listeners.append(_listener(app, settings, connections, settings.tls_port, tls=True))
    ending = _Ending([server for server, _ in listeners], app.state.drain, settings)
    ending.on_signals()
    app.state.ports = frozenset(sock.getsockname()[1] for _, sock in listeners)
    # The lifespan is the app's, not a listener's: it begins and ends once.
    async with app.router.lifespan_context(app):
        stdout = unfailing(sys.stdout)
        print(_greeting(settings, [sock for _, sock in listeners]), file=stdout)
        if app.state.first_key is not None:
            print(app.state.first_key.announcement(stdout.isatty()), file=stdout)
        _log.info(f"Up to {connections.limit:,} connections are served; {_room(descriptors)}")
        await asyncio.gather(*(server.serve(sockets=[sock]) for server, sock in listeners))


def _connections(settings: Settings, descriptors: int) -> Connections:
    """The connections that there may be: as many as is set, or as there are descriptors for."""
    limit = min(settings.connection_limit, connections_within(descriptors))
    if limit < 1:
        raise SettingsError(f"The server needs more than {RESERVED:,}, and {_room(descriptors)}.")
    if limit < settings.connection_limit:
        _log.warning(f"COSMOS_CONNECTION_LIMIT is taken as {limit:,}, for {_room(descriptors)}")
    return Connections(
        limit, read_timeout_s=settings.read_timeout, write_timeout_s=settings.write_timeout
    )


def _room(descriptors: int) -> str:
    return f"this process may open {descriptors:,} files and sockets (`ulimit -Hn`)"


def _listener(
    app: FastAPI, settings: Settings, connections: Connections, port: int, *, tls: bool = False
) -> tuple[_Server, Listener]:
    config = BoundedConfig(
        app,
        connections,
        lifespan="off",
        server_header=False,
        access_log=False,
        # `configure_log` has done it.
        log_config=None,
        log_level="warning",
        timeout_keep_alive=settings.keep_alive,
        ssl_certfile=settings.tls_cert if tls else None,
        ssl_keyfile=settings.tls_key if tls else None,
        # The app reads X-Forwarded-* itself, and Host and Prefix among them.
        proxy_headers=False,
    )
    return _Server(config), Listener(_listen(settings.host, port), connections)


def _check_certificate(settings: Settings) -> None:
    if settings.tls_cert is None:
        return
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as error:
        raise SettingsError(
            f"The certificate {settings.tls_cert} cannot be used with the key "
            f"{settings.tls_key}: {_reason(error)}."
        ) from error


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise SettingsError(
            f"Cannot listen on {host} port {port}: {_reason(error)}. "
            "Choose another with --host and --port."
        ) from error


def _reason(error: OSError) -> str:
    """What the system calls the error; `strerror` may hold more than a person wants to read."""
    if isinstance(error, ssl.SSLError) or error.errno is None:
        return str(error)
    return os.strerror(error.errno)


class _Ending:
    """What the first signal begins, or the server itself, and a second signal cuts short."""

    def __init__(self, servers: list[_Server], drain: Drain, settings: Settings) -> None:
        self._servers = servers
        self._drain = drain
        self._drain_s = settings.drain_seconds
        self._data = settings.data
        self._num_signals = 0
        self._draining: asyncio.Task[None] | None = None

    def on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._hear)
        # With `nohup` it is ignored, for the server to outlive its terminal.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, self._hear)
        self._asked = asyncio.create_task(self._begin_when_asked())

    async def _begin_when_asked(self) -> None:
        await self._drain.asked()
        self._begin()

    def _begin(self) -> asyncio.Task[None]:
        """Nothing if it has begun."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._end())
        return self._draining

    def _hear(self) -> None:
        draining = self._begin()
        # A service manager's first signal may come as the server ends by itself.
        self._num_signals += 1
        if self._num_signals == 1:
            return
        _log.warning("Stopping at once", jobs_given_back=len(self._drain.running))
        draining.cancel()
        for server in self._servers:
            server.force_exit = server.should_exit = True

    async def _end(self) -> None:
        """Let runs finish, and then the answers that are being sent, for a while each."""
        started = time.monotonic()
        try:
            tell_stopping(self._data, self._drain_s)
            _log.info(_stopping(len(self._drain.running), self._drain_s))
            await self._drain.begin(self._drain_s)
            if self._drain.running:
                _log.warning("The time is over", jobs_given_back=len(self._drain.running))
        finally:
            left_s = self._drain_s - (time.monotonic() - started)
            for server in self._servers:
                # A service manager may not wait much longer than the drain takes.
                server.config.timeout_graceful_shutdown = max(1, min(GRACE_S, int(left_s)))
                server.should_exit = True


def _stopping(running: int, drain_s: float) -> str:
    if running == 0:
        return "Stopping"
    jobs = "1 job has" if running == 1 else f"{running} jobs have"
    return f"Stopping: {jobs} up to {drain_s:g} s"


def _greeting(settings: Settings, sockets: list[socket.socket]) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    schemes = ("http", "https")
    urls = [
        f"{scheme}://{host}:{sock.getsockname()[1]}"
        for scheme, sock in zip(schemes, sockets, strict=False)
    ]
    return f"cosmos-serve listens on {' and '.join(urls)}, serving {settings.weights}"


_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 1_000_000


def keep_heap_small() -> None:
    """Give blocks beyond a megabyte memory of their own from now on; nothing without glibc."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
