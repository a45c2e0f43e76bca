"""A server's dispatcher over simulated workers: its tables and files are real, as are its loops."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, event, func, select

from benchmarks.simulated_pool import HEIGHT, WIDTH, SimulatedPool, Workers
from pipeline.spec import VideoSpec
from server.db import tables
from server.db.database import Database
from server.disk import DiskSpace
from server.dispatch.dispatcher import Dispatcher
from server.fal.endpoints import Limits
from server.files.local import LocalFiles
from server.jobs.hints import peers_of
from server.jobs.leases import Leases
from server.jobs.limits import NO_LIMITS, KeyLimits
from server.jobs.store import JobStore
from server.models import NewJob, StoredArtifact
from server.tasks import Signals, to_writer_thread
from server.workers.pool import SlotState
from weights.checkpoint_profile import CheckpointProfile

ENDPOINT = "fal-ai/cosmos-predict-2.5/image-to-video"
PICTURE = StoredArtifact(
    id="pixels-of-the-benchmark",
    kind="pixels",
    name="pixels",
    content_type="application/octet-stream",
    size=WIDTH * HEIGHT * 3,
    sha256="0" * 64,
    width=WIDTH,
    height=HEIGHT,
)
"""The prepared picture of every job, which each run reads from the disk."""


@dataclass(eq=False, kw_only=True)
class Cluster:
    """A database with a dispatcher, and clients that submit to it."""

    database: Database
    store: JobStore
    pool: SimulatedPool
    dispatcher: Dispatcher
    signals: Signals
    submitted: list[str] = field(default_factory=list)

    async def submit(self, key_id: str | None = None) -> str:
        """Submit a job as a route does; its picture is prepared already."""
        job = new_job(key_id)
        # The row of the picture comes with the first.
        artifacts = [] if self.submitted else [PICTURE]
        self.submitted.append(job.id)
        submit = partial(self.store.submit, queue_limit=1_000_000, artifacts=artifacts)
        await to_writer_thread(submit, job)
        self.signals.claimable.notify()
        return job.id

    def idle_slots(self) -> int:
        return sum(slot.state is SlotState.IDLE for slot in self.pool.slots())

    async def until_finished(self) -> None:
        """Wait until every job that was submitted has ended."""
        unfinished = select(func.count()).where(tables.jobs.c.finished_at.is_(None))

        def count() -> int:
            with self.database.read() as db:
                return db.execute(unfinished).scalar_one()

        while await asyncio.to_thread(count):
            await asyncio.sleep(0.2)

    def rows(self) -> list[Any]:
        """The jobs as the table has them, in the order in which they came."""
        with self.database.read() as db:
            return list(db.execute(select(tables.jobs).order_by(tables.jobs.c.seq)))

    def count_videos(self) -> int:
        """The rows of videos that jobs were given."""
        artifacts = tables.artifacts.c
        with self.database.read() as db:
            query = select(func.count()).where(artifacts.kind == "video")
            return int(db.execute(query).scalar_one())


def new_job(key_id: str | None = None) -> NewJob:
    """A request of today's default length, whose picture is here."""
    spec = VideoSpec(prompt="A rocket lifts off.", seed=1)
    return NewJob(
        id=str(uuid.uuid4()),
        endpoint=ENDPOINT,
        base_url="http://localhost:8000",
        key_id=key_id,
        input={"media": {}, "sync_mode": False, "spec": spec.to_json()},
        input_refs={"image": PICTURE.id},
        tier="exact",
    )


def store_of(
    database: Database, key_limits: KeyLimits = NO_LIMITS, owner: str = "benchmark"
) -> JobStore:
    return JobStore(database, owner=owner, key_limits=key_limits)


@asynccontextmanager
async def cluster(
    where: Path | SecretStr, folder: Path, workers: Workers, key_limits: KeyLimits = NO_LIMITS
) -> AsyncIterator[Cluster]:
    """A dispatcher that is stopped at first: `working` starts it."""
    database = Database(where)
    with contextlib.closing(database):
        files, signals, pool = LocalFiles(folder / "files"), Signals(), SimulatedPool(workers)
        incoming = files.receive_as(PICTURE.id)
        incoming.write(bytes(PICTURE.size))
        incoming.keep()
        store = store_of(database, key_limits)
        dispatcher = Dispatcher(
            pool=pool,
            store=store,
            files=files,
            limits=Limits.of(CheckpointProfile()),
            signals=signals,
            disk=DiskSpace(folder, 0),
        )
        made = Cluster(
            database=database, store=store, pool=pool, dispatcher=dispatcher, signals=signals
        )
        yield made


@asynccontextmanager
async def working(of: Cluster, url: SecretStr | None) -> AsyncIterator[None]:
    """Run the pool, and the loops that a server has for it, until the end of the block."""
    peers = peers_of(of.database, url, of.store, of.signals, lambda _: None, lambda: None)
    shared = of.database.is_shared
    claimable = of.signals.claimable
    leases = Leases(of.store, claimable, of.dispatcher.in_hand, is_shared=shared)
    loops = {**leases.loops(), **peers.loops()}
    work = [of.dispatcher.run, of.dispatcher.watch_pool, of.dispatcher.end_late, *loops.values()]
    tasks = [asyncio.create_task(loop()) for loop in work]
    await of.pool.start()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await of.dispatcher.close()
        await of.pool.close()


@dataclass(slots=True)
class Used:
    """What a piece of work used: transactions, and seconds of a core.

    `cpu_s` is this process's, and with it the simulated workers'.
    """

    seconds: float = 0.0
    writes: int = 0
    reads: int = 0
    cpu_s: float = 0.0
    postgres_cpu_s: float | None = None

    def per_second(self) -> dict[str, float]:
        """The rates, and of how many cores there was need."""
        rates = {
            "writes_per_second": round(self.writes / self.seconds, 2),
            "reads_per_second": round(self.reads / self.seconds, 2),
            "cores": round(self.cpu_s / self.seconds, 4),
        }
        if self.postgres_cpu_s is not None:
            rates["postgres_cores"] = round(self.postgres_cpu_s / self.seconds, 4)
        return rates


class Meter:
    """Measures what is used by this process, and by a PostgreSQL server if there is one."""

    def __init__(self, postgres_pid: int | None) -> None:
        self._postgres = None if postgres_pid is None else psutil.Process(postgres_pid)

    @contextmanager
    def measuring(self) -> Iterator[Used]:
        """What the block uses, filled in at its end."""
        used = Used()

        def count(connection: Connection) -> None:
            if _is_write(connection):
                used.writes += 1
            else:
                used.reads += 1

        event.listen(Engine, "commit", count)
        begun, busy, beside = time.monotonic(), time.process_time(), self._postgres_s()
        try:
            yield used
        finally:
            event.remove(Engine, "commit", count)
            used.seconds = time.monotonic() - begun
            used.cpu_s = time.process_time() - busy
            if self._postgres is not None:
                used.postgres_cpu_s = self._postgres_s() - beside

    def _postgres_s(self) -> float:
        if self._postgres is None:
            return 0.0
        total = 0.0
        for process in (self._postgres, *self._postgres.children()):
            # One that ends meanwhile is not counted: connections are kept, so few do.
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total


def _is_write(connection: Connection) -> bool:
    options = connection.get_execution_options()
    if connection.dialect.name == "sqlite":
        return bool(options.get(tables.BEGIN_OPTION) == "IMMEDIATE")
    return not options.get("postgresql_readonly", False)
