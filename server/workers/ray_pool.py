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
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Self, TypeVar

import structlog

from pipeline.child_process import STOP_SIGNALS
from server.config.settings import Settings
from server.tasks import in_thread, log_errors
from server.workers.local_pool import options_from
from server.workers.loop import WorkerOptions
from server.workers.pool import CLOSED, LOAD_S, SlotChange, SlotDown, SlotGone, SlotState
from server.workers.ray_cluster import Node, RayCluster, import_ray
from server.workers.ray_scaling import Scaling
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

HEAD_IS_AWAY = "The cluster of Ray does not answer."
LEADS_NO_MORE = "This server no longer leads the cluster of Ray."
NODE_HAS_LEFT = "The worker's node has left the cluster of Ray."
NO_JOB = "The worker had no job for long."

Answer = TypeVar("Answer")

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
        scaling: Scaling | None = None,
        first_backoff_s: float = 1.0,
        load_limit_s: float = LOAD_S,
    ) -> None:
        """Prepare to connect to the cluster at `address`, once this server `leads`.

        `digest` reads the digest that every node's checkpoint must have. Without `scaling` every
        slot has a worker. The others are as of `LocalPool`.
        """
        super().__init__()
        self._worker = worker
        self._options = options
        self._digest_of = digest
        self._address = address
        self._leads = leads
        self._scaling = scaling
        self._first_backoff_s = first_backoff_s
        self._load_limit_s = load_limit_s
        self._cluster: RayCluster | None = None
        self._names: dict[str, str] = {}
        """What nodes are called, by their ids."""
        self._nodes: dict[str, Node] = {}
        """Those of the slots that have a worker."""
        self._free_since: dict[str, float] = {}
        self._ending: list[Slot] = []
        """The slots that have left the pool, and whose workers are being ended."""
        self._asked_for: int | None = None
        self._digest = ""
        self._led_at = -LEAD_S
        self._following: asyncio.Task[None] | None = None

    @classmethod
    def from_settings(
        cls, settings: Settings, leads: Callable[[], bool], waiting: Callable[[], int]
    ) -> Self:
        """The pool of the cluster that the settings name; `waiting` is as of `Scaling`.

        Raises:
            SettingsError: Ray is not installed.
        """
        import_ray()
        scaling = None
        if settings.ray_max_slots is not None:
            scaling = Scaling(
                waiting=waiting,
                min_slots=settings.ray_min_slots,
                max_slots=settings.ray_max_slots,
                idle_s=settings.ray_idle_seconds,
            )
        return cls(
            settings.worker,
            options_from(settings),
            digest=lambda: digest_of(open_checkpoints(str(settings.weights))),
            address=settings.ray_address,
            leads=leads,
            scaling=scaling,
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
        await self._disconnect(CLOSED)
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
            await self._disconnect(LEADS_NO_MORE)
            return
        try:
            if self._cluster is None:
                self._digest = await in_thread(self._digest_of)
                self._cluster = await in_thread(RayCluster, self._address)
                _take_back_signals()
                _log.info("Connected to Ray", address=self._address)
            places = self._places(await _answer_of(self._cluster.nodes))
            await self._let_go_of_gone(self._cluster, places)
            wanted = await self._wanted(self._cluster, len(places))
        except (TimeoutError, ConnectionError) as error:
            _log.error("The cluster of Ray is not there", why=str(error) or "it does not answer")
            await self._disconnect(HEAD_IS_AWAY)
            return
        self._start_workers(self._cluster, places, wanted)
        if self._scaling is not None:
            await self._end_idle(len(self._slots) - wanted, self._scaling.idle_s)

    def _places(self, nodes: Collection[Node]) -> Mapping[str, Node]:
        """The slots that nodes have room for, by their names: the node's, and a number.

        Of nodes that are called the same, which keep what they were called, one has the name.
        """
        ids = {node.id for node in nodes}
        self._names = {id_: name for id_, name in self._names.items() if id_ in ids}
        for node in nodes:
            if node.id not in self._names:
                is_taken = node.name in self._names.values()
                self._names[node.id] = node.id if is_taken else node.name
        return {
            f"{self._names[node.id]}/{number}": node
            for node in nodes
            for number in range(node.num_slots)
        }

    async def _let_go_of_gone(self, cluster: RayCluster, places: Mapping[str, Node]) -> None:
        # One that is back under its name is another node.
        gone = [name for name, node in self._nodes.items() if places.get(name) != node]
        for name in gone:
            node = self._nodes[name]
            _log.warning("A slot is gone with its node", slot=name)
            if not await _answer_of(partial(cluster.has_left, node)):
                # What runs there may have crashed the machine.
                self._slots[name].kill(f"The node {node.name} of Ray is lost.")
            self._let_go(name, SlotDown(name, NODE_HAS_LEFT))
        await self._end_those(NODE_HAS_LEFT)

    async def _wanted(self, cluster: RayCluster, num_places: int) -> int:
        """How many slots are to have a worker. Where that is more than there are, ask for nodes.

        They are asked for until they are there, and not longer: workers hold the nodes that they
        are on, and what is asked for could hold others, on which there is none.
        """
        if self._scaling is None:
            return num_places
        wanted = self._scaling.wanted(self.slots(), await in_thread(self._scaling.waiting))
        asked_for = wanted if wanted > num_places else 0
        if asked_for != self._asked_for:
            await _answer_of(partial(cluster.ask_for, asked_for))
            self._asked_for = asked_for
            if asked_for:
                _log.info("Ray is asked for more nodes", slots=asked_for, there=num_places)
        return wanted

    def _start_workers(self, cluster: RayCluster, places: Mapping[str, Node], wanted: int) -> None:
        """Have a worker in so many of the places, first where others of the node have one."""
        workers = Counter(node.id for node in self._nodes.values())
        empty = [name for name in places if name not in self._nodes]
        empty.sort(key=lambda name: -workers[places[name].id])
        for name in empty[: max(0, wanted - len(self._slots))]:
            self._nodes[name] = places[name]
            self._slots[name] = self._slot(cluster, name, places[name])
            self._slots[name].start(asyncio.get_running_loop())

    async def _end_idle(self, at_most: int, idle_s: float) -> None:
        """End so many workers that had no job for long: a node without any can be removed."""
        now = time.monotonic()
        free = [view.name for view in self.slots() if view.state is not SlotState.BUSY]
        self._free_since = {name: self._free_since.get(name, now) for name in free}
        idle = [name for name in free if now - self._free_since[name] >= idle_s]
        # First of nodes with few workers.
        for name in sorted(idle, key=self._workers_beside)[: max(0, at_most)]:
            self._let_go(name, SlotGone(name))
        await self._end_those(NO_JOB)

    def _workers_beside(self, name: str) -> int:
        """How many workers the node of this slot has."""
        return sum(node == self._nodes[name] for node in self._nodes.values())

    def _let_go(self, name: str, change: SlotChange) -> None:
        """Have the slot leave the pool before its worker is ended, so that it gets no order."""
        self._ending.append(self._slots.pop(name))
        del self._nodes[name]
        self._free_since.pop(name, None)
        self._changes.publish(change)

    async def _end_those(self, reason: str) -> None:
        """End the workers of the slots that have left the pool."""
        await self._end(self._ending, reason)
        self._ending.clear()

    def _slot(self, cluster: RayCluster, name: str, node: Node) -> Slot:
        def tell(change: SlotChange) -> None:
            # Of a slot that has left the pool, all has been said.
            if self._slots.get(name) is slot:
                self._changes.publish(change)

        plan = SlotPlan(
            name=name,
            device="+".join(["cuda"] * node.num_gpus) or "cpu",
            start=partial(cluster.worker, node, self._worker, self._options, self._digest),
            first_backoff_s=self._first_backoff_s,
            load_limit_s=self._load_limit_s,
        )
        slot = Slot(plan, tell)
        return slot

    async def _disconnect(self, reason: str) -> None:
        """Let go of the cluster, and with it of every slot."""
        for name in list(self._slots):
            self._let_go(name, SlotDown(name, reason))
        await self._end_those(reason)
        self._names.clear()
        self._asked_for = None
        if self._cluster is not None:
            cluster, self._cluster = self._cluster, None
            await in_thread(cluster.close)


async def _answer_of(question: Callable[[], Answer]) -> Answer:
    """What Ray answers, by a thread of its own: without a head it waits for ever.

    Raises:
        TimeoutError: it is silent for too long.
        ConnectionError: it cannot answer.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Answer] = loop.create_future()

    def take(given: Answer | ConnectionError) -> None:
        if answer.done():
            return
        if isinstance(given, ConnectionError):
            answer.set_exception(given)
        else:
            answer.set_result(given)

    def ask() -> None:
        given: Answer | ConnectionError
        try:
            given = question()
        except ConnectionError as error:
            given = error
        except Exception as error:
            given = ConnectionError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(take, given)

    threading.Thread(target=ask, name="question to Ray", daemon=True).start()
    async with asyncio.timeout(SILENT_S):
        return await answer


def _take_back_signals() -> None:
    """Have Python hear the signals to end again: Ray, which connects, has put itself there."""
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            signal.signal(number, signal.getsignal(number))
