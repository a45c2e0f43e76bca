"""The pool of a Ray cluster: slots on its nodes, which come and go with them.

Ray places the workers and carries their messages; their slots are those of every pool. One server
has the pool: it holds the GPUs as long as it is connected, and another waits to lead.
"""

import asyncio
import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Self

import structlog

from pipeline.child_process import STOP_SIGNALS
from server.config.settings import Settings
from server.tasks import in_thread, log_errors
from server.workers.local_pool import options_from
from server.workers.loop import WorkerOptions
from server.workers.pool import LOAD_S
from server.workers.ray_cluster import Node, RayCluster, import_ray
from server.workers.slot import Slot
from server.workers.slot_pool import SlotPool
from server.workers.supervisor import SlotPlan
from weights.checkpoints import digest_of, open_checkpoints

LOOK_S = 1.0
"""How often nodes are looked for."""

SILENT_S = 15.0
"""A head that does not answer for so long is lost."""

LEAD_S = 30.0
"""How long the pool is kept by a server that leads no more, in case it soon leads again."""

_log = structlog.get_logger("server")


class RayPool(SlotPool):
    """A `Pool` of the slots that the nodes of a cluster have."""

    def __init__(
        self,
        worker: str,
        options: WorkerOptions,
        *,
        digest: Callable[[], str],
        address: str = "auto",
        leads: Callable[[], bool] = lambda: True,
        first_backoff_s: float = 1.0,
        load_limit_s: float = LOAD_S,
        ending_grace_s: float = 5.0,
    ) -> None:
        """Prepare to connect to the cluster at `address`, once this server `leads`.

        `digest` reads the digest that every node's checkpoint must have. The others are as of
        `LocalPool`.
        """
        super().__init__(ending_grace_s=ending_grace_s)
        self._worker = worker
        self._options = options
        self._digest_of = digest
        self._address = address
        self._leads = leads
        self._first_backoff_s = first_backoff_s
        self._load_limit_s = load_limit_s
        self._cluster: RayCluster | None = None
        self._nodes: dict[str, Node] = {}
        self._digest = ""
        self._led_at = -LEAD_S
        self._following: asyncio.Task[None] | None = None

    @classmethod
    def from_settings(cls, settings: Settings, leads: Callable[[], bool]) -> Self:
        """The pool of the cluster that the settings name.

        Raises:
            SettingsError: Ray is not installed.
        """
        import_ray()
        return cls(
            settings.worker,
            options_from(settings),
            digest=lambda: digest_of(open_checkpoints(str(settings.weights))),
            address=settings.ray_address,
            leads=leads,
            load_limit_s=LOAD_S * settings.patience,
        )

    async def start(self) -> None:
        """See `Pool.start`. The slots are there once the cluster is."""
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """See `Pool.close`."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._disconnect()
        self._changes.publish(None)

    async def _follow(self) -> None:
        while True:
            await log_errors("following the nodes of Ray", self._look())
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        """Have the slots that the nodes have now, if this server leads."""
        if self._leads():
            self._led_at = time.monotonic()
        elif time.monotonic() - self._led_at > LEAD_S:
            await self._disconnect()
            return
        try:
            if self._cluster is None:
                self._digest = await in_thread(self._digest_of)
                self._cluster = await in_thread(RayCluster, self._address)
                _take_back_signals()
                _log.info("Connected to Ray", address=self._address)
            async with asyncio.timeout(SILENT_S):
                nodes = await _nodes_of(self._cluster)
        except (TimeoutError, ConnectionError) as error:
            _log.error("The cluster of Ray is not there", why=str(error) or "it does not answer")
            await self._disconnect()
            return
        await self._have_slots_on(self._cluster, nodes)

    async def _have_slots_on(self, cluster: RayCluster, nodes: Collection[Node]) -> None:
        wanted = _slots_of(nodes)
        # One that is back under its name is another node.
        gone = [name for name, node in self._nodes.items() if wanted.get(name) != node]
        await self._end([self._slots[name] for name in gone])
        for name in gone:
            _log.warning("A slot is gone with its node", slot=name)
            del self._slots[name], self._nodes[name]
        for name, node in wanted.items():
            if name not in self._nodes:
                self._nodes[name], self._slots[name] = node, self._slot(cluster, name, node)
                self._slots[name].start(asyncio.get_running_loop())

    def _slot(self, cluster: RayCluster, name: str, node: Node) -> Slot:
        plan = SlotPlan(
            name=name,
            device="+".join(["cuda"] * node.num_gpus) or "cpu",
            start=partial(cluster.worker, node, self._worker, self._options, self._digest),
            first_backoff_s=self._first_backoff_s,
            load_limit_s=self._load_limit_s,
        )
        return Slot(plan, self._changes.publish)

    async def _disconnect(self) -> None:
        """Let go of the cluster, and with it of every slot."""
        await self._end(self._slots.values())
        self._slots.clear()
        self._nodes.clear()
        if self._cluster is not None:
            cluster, self._cluster = self._cluster, None
            await in_thread(cluster.close)


async def _nodes_of(cluster: RayCluster) -> Sequence[Node]:
    """The cluster's nodes, by a thread of its own: without a head it waits for ever."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Sequence[Node]] = loop.create_future()

    def take(nodes: Sequence[Node]) -> None:
        if not answer.done():
            answer.set_result(nodes)

    def ask() -> None:
        nodes = cluster.nodes()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(take, nodes)

    threading.Thread(target=ask, name="nodes of Ray", daemon=True).start()
    return await answer


def _take_back_signals() -> None:
    """Have Python hear the signals to end again: Ray, which connects, has put itself there."""
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            signal.signal(number, signal.getsignal(number))


def _slots_of(nodes: Collection[Node]) -> Mapping[str, Node]:
    """The slots by their names: the node's, and a number."""
    counts = Counter(node.name for node in nodes)
    return {
        f"{node.name if counts[node.name] == 1 else node.id}/{number}": node
        for node in nodes
        for number in range(node.num_slots)
    }
