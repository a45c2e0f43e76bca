"""create_app: the parts of the server, put together."""

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from functools import partial

import structlog
from fastapi import FastAPI

from server.api.access import AccessRules
from server.api.dependencies import Services
from server.api.error_handlers import add_error_handlers
from server.api.middleware import EntryMiddleware
from server.api.router import api_routes
from server.auth.first_key import configured_key, make_first_key
from server.auth.key_store import KeyStore
from server.config.settings import Settings
from server.data_folder import owned
from server.db.database import Database
from server.db.peers import DISPATCHES
from server.dispatch.deadlines import Deadlines, RunLimits
from server.dispatch.dispatcher import Dispatcher
from server.dispatch.drain import Drain
from server.files.local import LocalFiles
from server.files.opening import unshared_files
from server.inputs.decoder import MediaDecoder
from server.inputs.prepare import InputPreparer
from server.jobs.clock import Clock, Heartbeat
from server.jobs.leases import Leases
from server.keys import ApiKey
from server.outbound.fetch import Fetcher
from server.outbound.moderation import Moderation
from server.services import Served, clean_up, make_services, make_sweeper, served_by
from server.sweeper import Sweeper
from server.tasks import TRY_AGAIN_MAX_S, log_errors, to_writer_thread, trouble_of
from server.workers.local_pool import LocalPool
from server.workers.pool import Pool
from server.workers.pulling_pool import CheckpointPull, PullingPool
from server.workers.ray_pool import RayPool
from server.workers.slot_pool import SlotPool

_log = structlog.get_logger("server")


def create_app(
    settings: Settings,
    pool: Pool | None = None,
    decoder: MediaDecoder | None = None,
    pull: CheckpointPull | None = None,
) -> FastAPI:
    """The server as an ASGI app; `pool` takes the place of the settings', `decoder` that of
    processes for pictures and videos. The database is opened with the app's lifespan, and not
    before; then workers are started, or first the `pull`.
    """
    key = configured_key(settings)
    served = served_by(settings, pull)
    runs = pool or _pool_of(
        settings,
        leads=lambda: app.state.services.peers.leads(in_what=DISPATCHES),
        waiting=lambda: app.state.services.store.count_ready(),
    )
    if pull is not None:
        runs = PullingPool(runs, pull)
    app = FastAPI(
        title="cosmos-serve",
        lifespan=lambda app: _lifespan(app, settings, key, served, runs, decoder or MediaDecoder()),
        routes=api_routes(settings.files_auth, settings.role),
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.drain = Drain()
    # `server.serve` replaces these by the ports that it really listens on.
    app.state.ports = frozenset({settings.port, settings.tls_port} - {None})
    add_error_handlers(app)
    app.add_middleware(
        EntryMiddleware,
        rules=AccessRules.from_settings(settings, socket.gethostname()),
        answered=lambda *answer: app.state.services.metrics.answered(*answer),
    )
    return app


def _pool_of(settings: Settings, leads: Callable[[], bool], waiting: Callable[[], int]) -> Pool:
    """Where this server's jobs run.

    `leads` says whether it may have the pool of a cluster, and `waiting` how many jobs could run.
    """
    if settings.role == "api":
        return SlotPool()
    if settings.pool == "ray":
        return RayPool.from_settings(settings, leads, waiting)
    return LocalPool.from_settings(settings, data=settings.data)


@asynccontextmanager
async def _lifespan(
    app: FastAPI,
    settings: Settings,
    key: ApiKey | None,
    served: Served,
    pool: Pool,
    decoder: MediaDecoder,
) -> AsyncIterator[None]:
    with (
        owned(settings.data, any_filesystem=settings.any_filesystem),
        closing(Database.of(settings)) as database,
    ):
        async with _running(app, settings, database, key, served, pool, decoder):
            yield


@asynccontextmanager
async def _running(
    app: FastAPI,
    settings: Settings,
    database: Database,
    key: ApiKey | None,
    served: Served,
    pool: Pool,
    decoder: MediaDecoder,
) -> AsyncIterator[None]:
    fetcher = Fetcher.from_settings(settings, app.state.ports)
    drain: Drain = app.state.drain
    clock = Clock()
    served = served._replace(moderation=Moderation.from_settings(settings, clock.now))
    services = make_services(settings, database, fetcher, key, served, pool, drain, clock)
    app.state.services = services
    app.state.first_key = None
    if settings.needs_key and key is None:
        app.state.first_key = make_first_key(KeyStore(database), settings.data)
    store, files, signals = services.store, services.files, services.signals
    heartbeat = Heartbeat(database, clock)
    sweeper = make_sweeper(settings, services, heartbeat, clock)
    # Take up what the last process on this data folder left.
    cleaning_up = to_writer_thread(clean_up, settings, services, clock)
    await _tried("removing what the last server left", cleaning_up)
    is_taken_up = await _tried("taking up jobs", _take_up(services))
    if served.guardrail.warning is not None:
        _log.warning(served.guardrail.warning)
    # One with the role `all` may be alone.
    if settings.role != "all" and (problem := unshared_files(files)) is not None:
        _log.warning(problem)
    if await asyncio.to_thread(store.paused_since) is not None:
        _log.warning("The queue is paused: `cosmos-serve queue resume` starts jobs again")
    intake = InputPreparer(
        store,
        files,
        services.images,
        services.public_files,
        fetcher,
        served.limits,
        signals,
        decoder,
        services.moderation,
        is_stopping=lambda: drain.has_begun,
    )
    dispatcher = Dispatcher(
        pool=pool,
        store=store,
        files=files,
        limits=served.limits,
        signals=signals,
        drain=drain,
        disk=services.disk,
        moderation=services.moderation,
        traces=services.traces,
        deadlines=Deadlines(RunLimits(patience=settings.patience)),
        previews=services.previews,
    )
    async with _in_background(services, intake, dispatcher, sweeper, is_taken_up=is_taken_up):
        yield


@asynccontextmanager
async def _in_background(
    services: Services,
    intake: InputPreparer,
    dispatcher: Dispatcher,
    sweeper: Sweeper,
    *,
    is_taken_up: bool,
) -> AsyncIterator[None]:
    """Run the pool and the loops, once the last process's jobs are taken up, until the end."""
    taking_up = asyncio.create_task(
        _keep_taking_up(services, before=services.store.now(), is_done=is_taken_up)
    )
    checking = asyncio.create_task(
        log_errors("checking the database", asyncio.to_thread(services.database.check))
    )
    loops = _loops(services, intake, dispatcher, sweeper)
    for what, loop in loops.items():
        services.loops.start(what, partial(_after, taking_up, loop))
    try:
        await services.pool.start()
        yield
    finally:
        # First the loops, which wait for the taking up.
        await services.loops.close()
        for task in (taking_up, checking):
            task.cancel()
        await asyncio.gather(taking_up, checking, return_exceptions=True)
        await services.runs.close()
        await intake.close()
        await services.webhooks.close()
        await dispatcher.close()
        await services.pool.close()
        await asyncio.to_thread(services.traces.close)


def _loops(
    services: Services, intake: InputPreparer, dispatcher: Dispatcher, sweeper: Sweeper
) -> dict[str, Callable[[], Awaitable[None]]]:
    """What runs as long as the server does, by its role."""
    loops: dict[str, Callable[[], Awaitable[None]]] = {
        "ending late jobs": dispatcher.end_late,
        "sending webhooks": services.webhooks.run,
        "removing what is over": sweeper.run,
    }
    if services.settings.role != "dispatch":
        loops["taking in pictures"] = intake.run
    if services.settings.role != "api":
        loops["starting jobs"] = dispatcher.run
        loops["watching the workers"] = dispatcher.watch_pool
    if not isinstance(services.files, LocalFiles):
        loops["watching the store of files"] = services.files.watch
    if services.moderation is not None:
        loops["asking the guardrail"] = services.moderation.watch
    leases = Leases(
        services.store,
        services.signals.claimable,
        lambda: intake.in_hand() | dispatcher.in_hand(),
        is_shared=services.database.is_shared,
    )
    return loops | leases.loops() | services.peers.loops()


async def _tried(what: str, work: Awaitable[object]) -> bool:
    """Await `work`; whether the machine and the database let it be done."""
    try:
        await work
    except Exception as error:
        trouble = trouble_of(error)
        if trouble is None:
            raise
        _log.error(str(trouble), during=what)
        return False
    return True


async def _take_up(services: Services, before: float = math.inf) -> None:
    """Take up what the last process on this data folder left: its jobs are those from `before`.

    Of a database that others use: what they have let go of.
    """
    await services.webhooks.recover()
    if services.database.is_shared:
        await to_writer_thread(services.store.take_over)
        return
    await to_writer_thread(services.store.recover)
    services.runs.adopt_all(await asyncio.to_thread(services.store.unfinished_runs, before))


async def _keep_taking_up(services: Services, *, before: float, is_done: bool) -> None:
    """Try it again until it can be done. Jobs wait meanwhile, and what is here can be read.

    Runs that came since `before` have their callers here.
    """
    while not is_done:
        await asyncio.sleep(TRY_AGAIN_MAX_S)
        is_done = await _tried("taking up jobs", _take_up(services, before))


async def _after(first: asyncio.Task[None], work: Callable[[], Awaitable[None]]) -> None:
    await asyncio.shield(first)
    await work()
