"""create_app: the parts of the server, put together."""

import asyncio
import secrets
import socket
import uuid
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager, closing
from functools import partial
from urllib.parse import urlsplit

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipeline.guardrail import choose_guardrail
from server.api.bodies import BodyReader
from server.api.dependencies import Services
from server.api.metrics import Metrics
from server.api.middleware import AccessRules, EntryMiddleware, response_headers
from server.api.readiness import Readiness
from server.api.results import Results
from server.api.router import api_router
from server.api.status_cache import StatusCache
from server.auth.authenticator import Authenticator
from server.auth.first_key import configured_key, make_first_key
from server.auth.key_store import KeyCache, KeyStore
from server.auth.tokens import SECRET_BYTES, Tokens
from server.data_folder import QUARANTINE, database_in, owned, read_or_make
from server.db.database import Database
from server.disk import MIB, DiskSpace
from server.dispatch.deadlines import Deadlines, RunLimits
from server.dispatch.dispatcher import Dispatcher
from server.dispatch.drain import Drain
from server.errors import InternalError, MethodNotAllowed, RequestError, UnknownPath
from server.fal.endpoints import ENDPOINTS, Limits
from server.fal.urls import Service
from server.files.access import FileAccess
from server.files.links import FileLinks, LinkSigner
from server.files.public import PublicFiles, base_urls_of
from server.files.quota import StorageQuota
from server.files.store import FileStore
from server.files.unknown_files import UnknownFiles
from server.files.upload_store import UploadStore
from server.files.uploads import Uploads
from server.inputs.disconnects import DisconnectedRuns
from server.inputs.image_store import ImageStore
from server.inputs.prepare import InputPreparer
from server.inputs.submit import Submissions
from server.jobs.limits import KeyLimits
from server.jobs.retention import Retention
from server.jobs.store import JobStore
from server.keys import ApiKey
from server.outbound.fetch import Fetcher
from server.settings import Settings
from server.sweeper import Sweeper
from server.tasks import Loops, Signals
from server.webhooks.body import webhook_body
from server.webhooks.sender import Webhooks
from server.webhooks.signing import SigningKey
from server.webhooks.store import WebhookStore
from server.workers.local_pool import LocalPool
from server.workers.pool import Pool
from weights.checkpoint_profile import PROFILE_FILE
from weights.store import WeightStore

_log = structlog.get_logger("server")


def create_app(settings: Settings, pool: Pool | None = None) -> FastAPI:
    """The server as an ASGI app; `pool` takes the place of this machine's.

    The database is opened and workers are started with the app's lifespan, not before.
    """
    key = configured_key(settings)
    limits = _limits(settings)
    pool = pool or LocalPool.from_settings(settings, data=settings.data)
    app = FastAPI(
        title="cosmos-serve",
        lifespan=lambda app: _lifespan(app, settings, key, limits, pool),
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.drain = Drain()
    # `server.serve` replaces these by the ports that it really listens on.
    app.state.ports = frozenset({settings.port, settings.tls_port} - {None})
    app.include_router(api_router(settings.files_auth))
    app.add_exception_handler(RequestError, _answer)
    app.add_exception_handler(HTTPException, _answer_router)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer)
    app.add_middleware(
        EntryMiddleware, rules=AccessRules.from_settings(settings, socket.gethostname())
    )
    return app


@asynccontextmanager
async def _lifespan(
    app: FastAPI, settings: Settings, key: ApiKey | None, limits: Limits, pool: Pool
) -> AsyncIterator[None]:
    with (
        owned(settings.data, any_filesystem=settings.any_filesystem),
        closing(Database(database_in(settings.data))) as database,
    ):
        async with _running(app, settings, database, key, limits, pool):
            yield


@asynccontextmanager
async def _running(
    app: FastAPI,
    settings: Settings,
    database: Database,
    key: ApiKey | None,
    limits: Limits,
    pool: Pool,
) -> AsyncIterator[None]:
    fetcher = _fetcher(settings, app.state.ports)
    drain: Drain = app.state.drain
    services = _services(settings, database, fetcher, key, limits, pool, drain)
    app.state.services = services
    app.state.first_key = None
    if settings.needs_key and key is None:
        app.state.first_key = make_first_key(KeyStore(database), settings.data)
    sweeper = _sweeper(settings, services)
    # Take up what the last process on this data folder left.
    await asyncio.to_thread(sweeper.clean_up)
    await asyncio.to_thread(services.store.recover)
    await services.webhooks.recover()
    services.runs.adopt_all(await asyncio.to_thread(services.store.unfinished_runs))
    store, files, signals = services.store, services.files, services.signals
    if await asyncio.to_thread(store.paused_since) is not None:
        _log.warning("The queue is paused: `cosmos-serve queue resume` starts jobs again")
    intake = InputPreparer(
        store,
        files,
        services.images,
        services.public_files,
        fetcher,
        limits,
        signals,
        is_stopping=lambda: drain.has_begun,
    )
    dispatcher = Dispatcher(
        pool=pool,
        store=store,
        files=files,
        limits=limits,
        signals=signals,
        drain=drain,
        disk=services.disk,
        deadlines=Deadlines(RunLimits(patience=settings.patience)),
    )
    services.loops.start("taking in pictures", intake.run)
    services.loops.start("starting jobs", dispatcher.run)
    services.loops.start("watching the workers", dispatcher.watch_pool)
    services.loops.start("ending late jobs", dispatcher.end_late)
    services.loops.start("sending webhooks", services.webhooks.run)
    services.loops.start("removing what is over", sweeper.run)
    try:
        await pool.start()
        yield
    finally:
        await services.loops.close()
        await services.runs.close()
        await intake.close()
        await services.webhooks.close()
        await dispatcher.close()
        await pool.close()


def _services(
    settings: Settings,
    database: Database,
    fetcher: Fetcher,
    key: ApiKey | None,
    limits: Limits,
    pool: Pool,
    drain: Drain,
) -> Services:
    owner = str(uuid.uuid4())
    store = JobStore(database, owner=owner, key_limits=_key_limits(settings))
    files = FileStore(settings.data / "files")
    signals, loops = Signals(), Loops()
    statuses = StatusCache(store.standing)
    store.on_write(statuses.written)
    retention = _retention(settings, database, files, statuses)
    images = ImageStore(database, files)
    submissions = Submissions(store, images, limits, signals, queue_limit=settings.queue_limit)
    signing_key = SigningKey.in_folder(settings.data)
    disk = DiskSpace(settings.data, settings.min_free_disk_mib)
    measured = Metrics(database, pool.slots)
    access, links = _file_reading(settings)
    auth = _authenticator(settings, KeyStore(database), key)
    webhooks = Webhooks(
        webhooks=WebhookStore(database, owner=owner),
        jobs=store,
        body_of=partial(webhook_body, jobs=store, files=files, links=links),
        fetcher=fetcher,
        key=signing_key,
        signals=signals,
        tried=measured.webhook_tried,
    )
    return Services(
        settings=settings,
        limits=limits,
        auth=auth,
        store=store,
        files=files,
        public_files=PublicFiles(database, access=access, base_urls=base_urls_of(settings)),
        file_links=links,
        file_access=access,
        uploads=_uploads(settings, database, files, auth),
        submissions=submissions,
        statuses=statuses,
        results=Results(store, files, links, retention),
        images=images,
        retention=retention,
        runs=DisconnectedRuns(submissions, grace_s=settings.disconnect_grace),
        pool=pool,
        signals=signals,
        webhooks=webhooks,
        signing_key=signing_key,
        drain=drain,
        metrics=measured,
        disk=disk,
        loops=loops,
        readiness=Readiness(pool, database, drain, disk, loops),
        database=database,
        bodies=BodyReader(timeout_s=settings.read_timeout),
    )


def _retention(
    settings: Settings, database: Database, files: FileStore, statuses: StatusCache
) -> Retention:
    return Retention(database, files, gone=lambda: statuses.written(None), keep_s=settings.keep_s)


def _uploads(
    settings: Settings, database: Database, files: FileStore, auth: Authenticator
) -> Uploads:
    key_limit_mib = settings.key_storage_limit_mib
    quota = StorageQuota(
        database,
        max_bytes=settings.storage_limit_mib * MIB,
        max_key_bytes=None if key_limit_mib is None else key_limit_mib * MIB,
    )
    store = UploadStore(database, keep_s=settings.keep_s)
    max_size = settings.upload_limit_mib * MIB
    return Uploads(store, files, quota, max_size=max_size, check_key=auth.check_key)


def _sweeper(settings: Settings, services: Services) -> Sweeper:
    unknown = UnknownFiles(
        services.database,
        services.files,
        FileStore(settings.data / QUARANTINE),
        insist=settings.quarantine_unknown,
        keep_s=settings.keep_s,
    )
    return Sweeper(services.retention, services.images, services.uploads, services.files, unknown)


def _secret(settings: Settings) -> bytes:
    """What nobody but this server knows; tokens and signed URLs end with it."""
    path = settings.data / "token.secret"
    return read_or_make(path, lambda: secrets.token_bytes(SECRET_BYTES), at_least=SECRET_BYTES)


def _file_reading(settings: Settings) -> tuple[FileAccess, FileLinks]:
    """Who may read files, and the URLs by which they do."""
    signer = None
    if settings.files_auth == "signed":
        signer = LinkSigner(_secret(settings), seconds=settings.files_url_seconds)
    return FileAccess(settings.files_auth, signer), FileLinks(signer)


def _authenticator(settings: Settings, store: KeyStore, key: ApiKey | None) -> Authenticator:
    tokens = Tokens(_secret(settings))
    return Authenticator(KeyCache(store, key), tokens, needs_key=settings.needs_key)


def _key_limits(settings: Settings) -> KeyLimits:
    return KeyLimits(
        queued=settings.key_queue_limit,
        running=settings.key_running_limit,
        submits_per_minute=settings.key_submits_per_minute,
    )


def _limits(settings: Settings) -> Limits:
    store = WeightStore(settings.weights)
    profile = store.profile
    choose_guardrail(profile.guardrail, settings.guardrail, str(store.root / PROFILE_FILE))
    return Limits(profile.width, profile.height, profile.max_frames)


def _fetcher(settings: Settings, ports: Set[int]) -> Fetcher:
    return Fetcher(
        allow_nets=settings.fetch_allow_nets,
        allow_hosts=settings.fetch_allow_hosts,
        own_ports=ports,
        public_host=None if settings.public_url is None else urlsplit(settings.public_url).hostname,
        enabled=settings.fetch == "on",
    )


async def _answer(request: Request, error: Exception) -> Response:
    answer = error if isinstance(error, RequestError) else InternalError()
    # The answer to an unforeseen error does not pass through EntryMiddleware.
    headers = {**response_headers(request.scope["state"]), **answer.headers}
    return JSONResponse(answer.body, answer.status, headers=headers)


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    """The caller left in the middle of the request: that is no error of the server."""
    return Response(status_code=499)


async def _answer_router(request: Request, error: Exception) -> Response:
    """The router's own 404 and 405, in fal's words."""
    assert isinstance(error, HTTPException)
    service, _, path = request.scope["path"].lstrip("/").partition("/")
    # Any path at all matches the routes of these two.
    takes_any = service in (Service.RUN, Service.QUEUE)
    is_known = not takes_any or path in ENDPOINTS or "/requests/" in path
    if error.status_code == 405 and is_known:
        return await _answer(request, MethodNotAllowed((error.headers or {})["Allow"]))
    return await _answer(request, UnknownPath(f"/{path}"))
