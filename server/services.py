"""The services that routes and loops share, made from the settings."""

import uuid
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from pipeline.guardrail import GuardrailKind, guardrail_kind
from server.api.bodies import BodyReader
from server.api.dependencies import Services
from server.api.estimates import estimates_of, statuses_of
from server.api.metrics import Metrics
from server.api.readiness import Readiness
from server.api.results import Results
from server.api.status_cache import StatusCache
from server.auth.authenticator import Authenticator
from server.auth.key_store import KeyCache, KeyStore
from server.auth.sessions import SessionCache, SessionStore
from server.auth.tokens import SECRET_BYTES, TOKEN_SECRET, Tokens, new_secret
from server.config.settings import Settings
from server.data_folder import QUARANTINE
from server.db.database import Database
from server.db.peers import DISPATCHES, SENDS_AND_SWEEPS, Alone, Peers
from server.db.secrets import read_or_make_secret
from server.disk import MIB, DiskSpace
from server.dispatch.drain import Drain
from server.fal.endpoints import Limits
from server.fal.prices import Prices
from server.files.access import FileAccess
from server.files.links import FileLinks, LinkSigner
from server.files.local import LocalFiles
from server.files.opening import open_files
from server.files.public import PublicFiles
from server.files.quota import StorageQuota
from server.files.store import FileStore
from server.files.unknown_files import UnknownFiles, remove_unknown_objects
from server.files.upload_store import UploadStore
from server.files.uploads import Uploads
from server.inputs.disconnects import DisconnectedRuns
from server.inputs.image_store import ImageStore
from server.inputs.submit import Submissions
from server.jobs.clock import Clock, Heartbeat
from server.jobs.hints import peers_of
from server.jobs.limits import KeyLimits
from server.jobs.retention import Retention
from server.jobs.store import JobStore
from server.keys import ApiKey
from server.models import Job
from server.outbound.fetch import Fetcher
from server.outbound.moderation import Moderation
from server.sweeper import Sweeper
from server.tasks import Loops, Signals
from server.tracing.traces import Traces, traces_of
from server.webhooks.body import webhook_body
from server.webhooks.sender import Webhooks
from server.webhooks.signing import SigningKey
from server.webhooks.store import WebhookStore
from server.workers.pool import Pool, SlotState
from server.workers.pulling_pool import CHECKPOINT, GUARDRAIL, CheckpointPull
from weights.checkpoint_profile import CheckpointProfile
from weights.checkpoints import open_checkpoints


class Served(NamedTuple):
    """What the checkpoints make and cost, who judges it, and where traces go."""

    limits: Limits
    guardrail: GuardrailKind
    prices: Prices
    traces: Traces
    moderation: Moderation | None = None


class _FileServing(NamedTuple):
    """Who may read files, by which URLs, and how they come here."""

    public_files: PublicFiles
    file_links: FileLinks
    file_access: FileAccess
    uploads: Uploads


def make_services(
    settings: Settings,
    database: Database,
    fetcher: Fetcher,
    key: ApiKey | None,
    served: Served,
    pool: Pool,
    drain: Drain,
    clock: Clock,
) -> Services:
    """The services of one server, whose database is open. Nothing runs yet."""
    owner, now, signals, loops = str(uuid.uuid4()), clock.now, Signals(), Loops()
    limits, moderation, endpoints = served.limits, served.moderation, served.limits.endpoints
    key_limits, judged = KeyLimits.from_settings(settings), moderation is not None
    store = JobStore(database, owner=owner, key_limits=key_limits, endpoints=endpoints, now=now)
    files = open_files(settings.files, settings.data)
    away = None if isinstance(files, LocalFiles) else files
    own_pool = None if settings.role == "api" else pool
    estimates = estimates_of(database, pool, limits, now)
    statuses = statuses_of(store, estimates)
    peers = _peers(settings, database, store, signals, statuses, drain)
    retention = _retention(settings, database, files, statuses, clock)
    images = ImageStore(database, files, now=now)
    submissions = Submissions(store, images, limits, signals, settings.queue_limit, judged)
    disk = DiskSpace(settings.data, settings.min_free_disk_mib)
    measured = Metrics(database, pool.slots, disk, now=now)
    auth = _authenticator(settings, database, key)
    serving = _file_serving(settings, database, files, auth, clock)
    body_of = partial(webhook_body, jobs=store, files=files, links=serving.file_links)
    webhooks = _webhooks(
        settings, database, store, body_of, fetcher, signals, measured.webhook_tried, peers.leads
    )
    return Services(
        settings=settings,
        **served._asdict(),
        auth=auth,
        store=store,
        files=files,
        **serving._asdict(),
        submissions=submissions,
        statuses=statuses,
        estimates=estimates,
        results=Results(store, files, serving.file_links, retention),
        images=images,
        retention=retention,
        runs=_runs(settings, database, submissions, pool),
        pool=pool,
        peers=peers,
        signals=signals,
        webhooks=webhooks,
        drain=drain,
        metrics=measured,
        disk=disk,
        loops=loops,
        readiness=Readiness(
            own_pool, database, drain, disk, loops, moderation, away, endpoints=endpoints
        ),
        database=database,
        bodies=BodyReader(timeout_s=settings.read_timeout),
    )


def _peers(
    settings: Settings,
    database: Database,
    store: JobStore,
    signals: Signals,
    statuses: StatusCache,
    drain: Drain,
) -> Peers | Alone:
    # One server has the pool of a cluster.
    dispatches = settings.pool == "ray" and settings.role != "api"
    locks = [SENDS_AND_SWEEPS, *([DISPATCHES] if dispatches else [])]
    return peers_of(
        database, settings.database, store, signals, statuses.written, drain.ask, locks=locks
    )


def _webhooks(
    settings: Settings,
    database: Database,
    store: JobStore,
    body_of: Callable[[Job], bytes],
    fetcher: Fetcher,
    signals: Signals,
    tried: Callable[[str], None],
    leads: Callable[[], bool],
) -> Webhooks:
    return Webhooks(
        webhooks=WebhookStore(database, owner=store.owner, now=store.now),
        jobs=store,
        body_of=body_of,
        fetcher=fetcher,
        key=SigningKey.in_folder(settings.data, partial(read_or_make_secret, database)),
        signals=signals,
        tried=tried,
        leads=leads,
    )


def _retention(
    settings: Settings, database: Database, files: FileStore, statuses: StatusCache, clock: Clock
) -> Retention:
    gone = partial(statuses.written, None)
    return Retention(database, files, gone=gone, keep_s=settings.keep_s, now=clock.now)


def _runs(
    settings: Settings, database: Database, submissions: Submissions, pool: Pool
) -> DisconnectedRuns:
    def has_idle_slot() -> bool:
        return any(slot.state is SlotState.IDLE for slot in pool.slots())

    return DisconnectedRuns(
        submissions,
        grace_s=settings.disconnect_grace,
        has_idle_slot=has_idle_slot,
        is_shared=database.is_shared,
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


def make_sweeper(
    settings: Settings, services: Services, heartbeat: Heartbeat, clock: Clock
) -> Sweeper:
    """What removes, of all that these services keep, what is over."""
    sweeps = {
        "removing what has expired": services.retention.sweep,
        "removing pictures": services.images.sweep,
        "removing files whose time is over": services.uploads.sweep,
        "removing sessions": SessionStore(services.database).sweep,
    }
    if isinstance(services.files, LocalFiles):
        unknown = _unknown_files(settings, services.database, services.files, clock)
        sweeps["removing files from the quarantine"] = unknown.sweep
    return Sweeper(sweeps, heartbeat, leads=services.peers.leads)


def clean_up(settings: Settings, services: Services, clock: Clock) -> None:
    """Clear up what the last server left unfinished, before anything comes in. Blocks.

    Raises:
        MostFilesUnknown: the database is not the one of these files.
    """
    if isinstance(services.files, LocalFiles):
        unknown = _unknown_files(settings, services.database, services.files, clock)
        unknown.clean_up(is_shared=services.database.is_shared)
    else:
        remove_unknown_objects(services.database, services.files)


def _unknown_files(
    settings: Settings, database: Database, files: LocalFiles, clock: Clock
) -> UnknownFiles:
    return UnknownFiles(
        database,
        files,
        LocalFiles(settings.data / QUARANTINE),
        insist=settings.quarantine_unknown,
        keep_s=settings.keep_s,
        now=clock.now,
    )


def _secret(settings: Settings, database: Database) -> bytes:
    """What nobody but the servers of a database know; tokens and signed URLs end with it."""
    path = settings.data / TOKEN_SECRET
    return read_or_make_secret(database, path, new_secret, at_least=SECRET_BYTES)


def _authenticator(settings: Settings, database: Database, key: ApiKey | None) -> Authenticator:
    return Authenticator(
        KeyCache(KeyStore(database), key),
        Tokens(_secret(settings, database)),
        SessionCache(SessionStore(database)),
        needs_key=settings.needs_key,
    )


def _file_serving(
    settings: Settings, database: Database, files: FileStore, auth: Authenticator, clock: Clock
) -> _FileServing:
    signer = None
    if settings.files_auth == "signed":
        seconds = settings.files_url_seconds
        signer = LinkSigner(_secret(settings, database), seconds=seconds, now=clock.now)
    access = FileAccess(settings.files_auth, signer, now=clock.now)
    return _FileServing(
        public_files=PublicFiles.from_settings(settings, database, access, clock.now),
        file_links=FileLinks(signer),
        file_access=access,
        uploads=_uploads(settings, database, files, auth, clock),
    )


def served_by(settings: Settings, pull: CheckpointPull | None) -> Served:
    """What the settings say is served; a checkpoint that is still to come is NVIDIA's."""
    if pull is not None and pull.brings(CHECKPOINT):
        profiles = {settings.weights: CheckpointProfile()}
    else:
        profiles = {each.root: each.profile for each in open_checkpoints(str(settings.weights))}
    is_fetched = pull is not None and pull.brings(GUARDRAIL)
    guardrail = guardrail_kind(profiles, settings.guardrail, is_fetched=is_fetched)
    prices, traces = Prices.from_settings(settings), traces_of(settings)
    return Served(Limits.of(*profiles.values()), guardrail, prices, traces)
