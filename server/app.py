"""create_app: the parts of the server, put together."""

import asyncio
import math
import secrets
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import NamedTuple

import structlog
from fastapi import FastAPI

from pipeline.guardrail import GuardrailKind, guardrail_kind
from server.api.access import AccessRules
from server.api.bodies import BodyReader
from server.api.dependencies import Services
from server.api.error_handlers import add_error_handlers
from server.api.metrics import Metrics
from server.api.middleware import EntryMiddleware
from server.api.readiness import Readiness
from server.api.results import Results
from server.api.router import api_routes
from server.api.status_cache import StatusCache
from server.auth.authenticator import Authenticator
from server.auth.first_key import configured_key, make_first_key
from server.auth.key_store import KeyCache, KeyStore
from server.auth.tokens import SECRET_BYTES, Tokens
from server.config.settings import Settings
from server.data_folder import QUARANTINE, database_in, owned, read_or_make
from server.db.database import Database
from server.disk import MIB, DiskSpace
from server.dispatch.deadlines import Deadlines, RunLimits
from server.dispatch.dispatcher import Dispatcher
from server.dispatch.drain import Drain
from server.fal.endpoints import Limits
from server.files.access import FileAccess
from server.files.links import FileLinks, LinkSigner
from server.files.public import PublicFiles
from server.files.quota import StorageQuota
from server.files.store import FileStore
from server.files.unknown_files import UnknownFiles
from server.files.upload_store import UploadStore
from server.files.uploads import Uploads
from server.inputs.decoder import MediaDecoder
from server.inputs.disconnects import DisconnectedRuns
from server.inputs.image_store import ImageStore
from server.inputs.prepare import InputPreparer
from server.inputs.submit import Submissions
from server.jobs.clock import Clock, Heartbeat
from server.jobs.limits import KeyLimits
from server.jobs.retention import Retention
from server.jobs.store import JobStore
from server.keys import ApiKey
from server.outbound.fetch import Fetcher
from server.outbound.moderation import Moderation
from server.sweeper import Sweeper
from server.tasks import TRY_AGAIN_MAX_S, Loops, Signals, log_errors, to_writer_thread, trouble_of
from server.webhooks.body import webhook_body
from server.webhooks.sender import Webhooks
from server.webhooks.signing import SigningKey
from server.webhooks.store import WebhookStore
from server.workers.local_pool import LocalPool
from server.workers.pool import Pool, SlotState
from server.workers.pulling_pool import CHECKPOINT, GUARDRAIL, CheckpointPull, PullingPool
from weights.checkpoint_profile import CheckpointProfile
from weights.checkpoints import open_checkpoints

_log = structlog.get_logger("server")


class _Served(NamedTuple):
    """The checkpoint that is served, and who judges what is made of it."""

    limits: Limits
    guardrail: GuardrailKind
    moderation: Moderation | None = None


def create_app(
    settings: Settings,
    pool: Pool | None = None,
    decoder: MediaDecoder | None = None,
    pull: CheckpointPull | None = None,
) -> FastAPI:
    """The server as an ASGI app; `pool` takes the place of this machine's, `decoder` that of
    processes for pictures and videos. The database is opened with the app's lifespan, and not
    before; then workers are started, or first the `pull`.
    """
    key = configured_key(settings)
    served = _served(settings, pull)
    pool = pool or LocalPool.from_settings(settings, data=settings.data)
    if pull is not None:
        pool = PullingPool(pool, pull)
    app = FastAPI(
        title="cosmos-serve",
        lifespan=lambda app: _lifespan(app, settings, key, served, pool, decoder or MediaDecoder()),
        routes=api_routes(settings.files_auth),
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.drain = Drain()
    # `server.serve` replaces these by the ports that it really listens on.
    app.state.ports = frozenset({settings.port, settings.tls_port} - {None})
    add_error_handlers(app)
    app.add_middleware(
        EntryMiddleware, rules=AccessRules.from_settings(settings, socket.gethostname())
    )
    return app


@asynccontextmanager
async def _lifespan(
    app: FastAPI,
    settings: Settings,
    key: ApiKey | None,
    served: _Served,
    pool: Pool,
    decoder: MediaDecoder,
) -> AsyncIterator[None]:
    with (
        owned(settings.data, any_filesystem=settings.any_filesystem),
        closing(Database(database_in(settings.data))) as database,
    ):
        async with _running(app, settings, database, key, served, pool, decoder):
            yield


@asynccontextmanager
async def _running(
    app: FastAPI,
    settings: Settings,
    database: Database,
    key: ApiKey | None,
    served: _Served,
    pool: Pool,
    decoder: MediaDecoder,
) -> AsyncIterator[None]:
    fetcher = Fetcher.from_settings(settings, app.state.ports)
    drain: Drain = app.state.drain
    clock = Clock()
    served = served._replace(moderation=Moderation.from_settings(settings, clock.now))
    services = _services(settings, database, fetcher, key, served, pool, drain, clock)
    app.state.services = services
    app.state.first_key = None
    if settings.needs_key and key is None:
        app.state.first_key = make_first_key(KeyStore(database), settings.data)
    store, files, signals = services.store, services.files, services.signals
    heartbeat = Heartbeat(database, clock)
    sweeper = _sweeper(settings, services, heartbeat, clock)
    # Take up what the last process on this data folder left.
    await _tried("removing what the last server left", to_writer_thread(sweeper.clean_up))
    is_taken_up = await _tried("taking up jobs", _take_up(services))
    if served.guardrail.warning is not None:
        _log.warning(served.guardrail.warning)
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
        deadlines=Deadlines(RunLimits(patience=settings.patience)),
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
    loops = {
        "taking in pictures": intake.run,
        "starting jobs": dispatcher.run,
        "watching the workers": dispatcher.watch_pool,
        "ending late jobs": dispatcher.end_late,
        "sending webhooks": services.webhooks.run,
        "removing what is over": sweeper.run,
    }
    if services.moderation is not None:
        loops["asking the guardrail"] = services.moderation.watch
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
    """Take up what the last process on this data folder left: its jobs are those from `before`."""
    await to_writer_thread(services.store.recover)
    await services.webhooks.recover()
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


def _services(
    settings: Settings,
    database: Database,
    fetcher: Fetcher,
    key: ApiKey | None,
    served: _Served,
    pool: Pool,
    drain: Drain,
    clock: Clock,
) -> Services:
    owner, now, signals, loops = str(uuid.uuid4()), clock.now, Signals(), Loops()
    limits, moderation, endpoints = served.limits, served.moderation, served.limits.endpoints
    key_limits, judged = KeyLimits.from_settings(settings), moderation is not None
    store = JobStore(database, owner=owner, key_limits=key_limits, endpoints=endpoints, now=now)
    files = FileStore(settings.data / "files")
    statuses = StatusCache(store.standing)
    store.on_write(statuses.written)
    retention = _retention(settings, database, files, statuses, clock)
    images = ImageStore(database, files, now=now)
    submissions = Submissions(store, images, limits, signals, settings.queue_limit, judged)
    disk = DiskSpace(settings.data, settings.min_free_disk_mib)
    measured = Metrics(database, pool.slots, now=now)
    access, links = _file_reading(settings, clock)
    auth = _authenticator(settings, KeyStore(database), key)
    webhooks = Webhooks(
        webhooks=WebhookStore(database, owner=owner, now=now),
        jobs=store,
        body_of=partial(webhook_body, jobs=store, files=files, links=links),
        fetcher=fetcher,
        key=SigningKey.in_folder(settings.data),
        signals=signals,
        tried=measured.webhook_tried,
    )
    return Services(
        settings=settings,
        **served._asdict(),
        auth=auth,
        store=store,
        files=files,
        public_files=PublicFiles.from_settings(settings, database, access, now),
        file_links=links,
        file_access=access,
        uploads=_uploads(settings, database, files, auth, clock),
        submissions=submissions,
        statuses=statuses,
        results=Results(store, files, links, retention),
        images=images,
        retention=retention,
        runs=_runs(settings, submissions, pool),
        pool=pool,
        signals=signals,
        webhooks=webhooks,
        drain=drain,
        metrics=measured,
        disk=disk,
        loops=loops,
        readiness=Readiness(pool, database, drain, disk, loops, moderation, endpoints=endpoints),
        database=database,
        bodies=BodyReader(timeout_s=settings.read_timeout),
    )


def _retention(
    settings: Settings, database: Database, files: FileStore, statuses: StatusCache, clock: Clock
) -> Retention:
    gone = partial(statuses.written, None)
    return Retention(database, files, gone=gone, keep_s=settings.keep_s, now=clock.now)


def _runs(settings: Settings, submissions: Submissions, pool: Pool) -> DisconnectedRuns:
    def has_idle_slot() -> bool:
        return any(slot.state is SlotState.IDLE for slot in pool.slots())

    return DisconnectedRuns(
        submissions, grace_s=settings.disconnect_grace, has_idle_slot=has_idle_slot
    )


def _uploads(
    settings: Settings, database: Database, files: FileStore, auth: Authenticator, clock: Clock
) -> Uploads:
    key_limit_mib = settings.key_storage_limit_mib
    quota = StorageQuota(
        database,
        max_bytes=settings.storage_limit_mib * MIB,
        max_key_bytes=None if key_limit_mib is None else key_limit_mib * MIB,
    )
    store = UploadStore(database, keep_s=settings.keep_s, now=clock.now)
    max_size = settings.upload_limit_mib * MIB
    return Uploads(store, files, quota, max_size=max_size, check_key=auth.check_key)


def _sweeper(settings: Settings, services: Services, heartbeat: Heartbeat, clock: Clock) -> Sweeper:
    unknown = UnknownFiles(
        services.database,
        services.files,
        FileStore(settings.data / QUARANTINE),
        insist=settings.quarantine_unknown,
        keep_s=settings.keep_s,
        now=clock.now,
    )
    return Sweeper(
        services.retention, services.images, services.uploads, services.files, unknown, heartbeat
    )


def _secret(settings: Settings) -> bytes:
    """What nobody but this server knows; tokens and signed URLs end with it."""
    path = settings.data / "token.secret"
    return read_or_make(path, lambda: secrets.token_bytes(SECRET_BYTES), at_least=SECRET_BYTES)


def _file_reading(settings: Settings, clock: Clock) -> tuple[FileAccess, FileLinks]:
    """Who may read files, and the URLs by which they do."""
    signer = None
    if settings.files_auth == "signed":
        seconds = settings.files_url_seconds
        signer = LinkSigner(_secret(settings), seconds=seconds, now=clock.now)
    return FileAccess(settings.files_auth, signer, now=clock.now), FileLinks(signer)


def _authenticator(settings: Settings, store: KeyStore, key: ApiKey | None) -> Authenticator:
    tokens = Tokens(_secret(settings))
    return Authenticator(KeyCache(store, key), tokens, needs_key=settings.needs_key)


def _served(settings: Settings, pull: CheckpointPull | None) -> _Served:
    """What the checkpoints make, and who judges; one that is still to come is NVIDIA's."""
    if pull is not None and pull.brings(CHECKPOINT):
        profiles = {settings.weights: CheckpointProfile()}
    else:
        profiles = {each.root: each.profile for each in open_checkpoints(str(settings.weights))}
    is_fetched = pull is not None and pull.brings(GUARDRAIL)
    guardrail = guardrail_kind(profiles, settings.guardrail, is_fetched=is_fetched)
    return _Served(Limits.of(*profiles.values()), guardrail)
