"""The cluster of Ray, as its pool uses it: which nodes there are, and workers on them.

Ray is an extra: it is imported when a server connects.
"""

import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import structlog

from server.config.errors import SettingsError
from server.config.node import set_ray_environment
from server.workers.loop import CannotLoad, Request, WorkerOptions, encode_request
from server.workers.messages import Failed, Ready, WorkerEvent, decode_event
from server.workers.node_worker import NodeWorker
from server.workers.pool import WorkerTaken

SLOT = "cosmos_slot"
"""The resource of a node that says how many workers it has room for: its GPUs are shared out
evenly among them."""

_UNREAD_MESSAGES = 4
"""How many messages of a worker, a chunk being 1 MiB, are on their way before it has to wait."""

_ANSWER_S = 10.0
"""How long the head may take to say which nodes there are."""

_IN_ORDER = frozenset({1, 3, 4})
"""The reasons for which a node ends that are no crash, of `NodeDeathInfo.Reason` of Ray: its
process was told to end, or its autoscaler has taken it."""

_CHECK_S = 20.0
"""How long the head may take to answer; a command of Ray takes a second or two to start."""

_log = structlog.get_logger("server")


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster that has room for workers, each on `num_gpus`."""

    id: str
    name: str
    num_slots: int
    num_gpus: int


class RayCluster:
    """The connection to a cluster. Every method blocks; one process has one at a time."""

    def __init__(self, address: str) -> None:
        """Connect, by the node of Ray that runs on this machine.

        `address` is that of the cluster's head, or `auto` for the cluster of that node.

        Raises:
            SettingsError: Ray is not installed.
            ConnectionError: there is no such cluster, or it does not let us in.
        """
        self._ray = import_ray()
        _check_head(address)
        try:
            self._ray.init(address=address, log_to_driver=False, configure_logging=False)
        except RuntimeError as error:
            raise ConnectionError(str(error)) from error
        self._actors = self._ray.remote(
            num_cpus=0,
            resources={SLOT: 1},
            # The pool starts another, after a while.
            max_restarts=0,
            max_task_retries=0,
            # A cancel is heard while messages are on their way.
            concurrency_groups={"requests": 1},
        )(NodeWorker)

    def nodes(self) -> Sequence[Node]:
        """The nodes that have room for workers, busy or not.

        Raises:
            ConnectionError: the head does not answer in time.
        """
        return [
            _node(node)
            for node in self._known_nodes()
            if node.state == node.ALIVE and node.resources_total.get(SLOT, 0) >= 1
        ]

    def has_left(self, node: Node) -> bool:
        """Whether a node is gone in order, or with its head, and has not crashed.

        Ray may hear of a crash a minute late: until then it says that the node is there.
        """
        try:
            found = [each for each in self._known_nodes() if each.node_id.hex() == node.id]
        except ConnectionError:
            return True
        # Another head knows nothing of it.
        return not found or (
            found[0].state != found[0].ALIVE and found[0].death_info.reason in _IN_ORDER
        )

    def _known_nodes(self) -> Collection[Any]:
        """Those that are there, and those that were."""
        # `ray.nodes` would wait for a head that is gone for ever, and what waits there has Ray end
        # this process as soon as another head is there.
        client = self._ray._private.worker.global_worker.gcs_client
        try:
            known: Mapping[Any, Any] = client.get_all_node_info(timeout=_ANSWER_S)
        except self._ray.exceptions.RayError as error:
            raise ConnectionError(f"the head does not answer: {error}") from error
        return known.values()

    def ask_for(self, num_slots: int) -> None:
        """Have Ray's autoscaler, if there is one, bring as many nodes as have so many slots.

        That holds until the next call, also where this process has ended; 0 asks for nothing.
        """
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=[{SLOT: 1}] * num_slots)

    @contextmanager
    def worker(
        self, node: Node, worker: str, options: WorkerOptions, digest: str
    ) -> Iterator["RayWorker"]:
        """A worker on the node, which has to load the checkpoint of this digest.

        Raises:
            ConnectionError: the head does not answer in time.
        """
        # What is asked of a head that is gone is waited for, also by `close`.
        self.nodes()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        placed = self._actors.options(
            num_gpus=node.num_gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        has_left = partial(self.has_left, node)
        yield RayWorker(self._ray, placed.remote(), node, has_left, worker, options, digest)

    def close(self) -> None:
        """Disconnect; Ray ends the workers."""
        self._ray.shutdown()


class RayWorker:
    """A worker on a node: see `server.workers.supervisor.RunningWorker`."""

    def __init__(
        self,
        ray: Any,
        actor: Any,
        node: Node,
        has_left: Callable[[], bool],
        worker: str,
        options: WorkerOptions,
        digest: str,
    ) -> None:
        self._ray = ray
        self._actor = actor
        self._node = node
        self._has_left = has_left
        self._digest = digest
        self._ended: str | None = None
        self._was_told_to_end = False
        """Whether it was told to end: then the head, which may be gone, is not asked why it did."""
        streaming = actor.messages.options(
            num_returns="streaming", _generator_backpressure_num_objects=_UNREAD_MESSAGES
        )
        self._messages = streaming.remote(version("cosmos-serve"), worker, asdict(options))

    def post(self, request: Request) -> None:
        """See `RunningWorker.post`."""
        self._call("post", encode_request(request))

    def receive(self) -> WorkerEvent | None:
        """See `RunningWorker.receive`."""
        try:
            message = self._ray.get(next(self._messages))
        except StopIteration:
            return None
        except self._ray.exceptions.RayError as error:
            if not self._was_told_to_end and self._has_left():
                self._ended = f"The node {self._node.name} has left the cluster of Ray."
                raise WorkerTaken(self._ended) from error
            self._ended = self._ended or self._how_lost(error)
            return None
        if isinstance(message, str):
            self._ended = message
            return None
        event = decode_event(message)
        if isinstance(event, Ready) and event.checkpoint_digest != self._digest:
            self.kill()
            return Failed(
                code=CannotLoad.code,
                message=f"The node {self._node.name} has another checkpoint, of the digest "
                f"{event.checkpoint_digest[:12]}; the server's is {self._digest[:12]}.",
            )
        return event

    def ask_to_end(self) -> None:
        """See `RunningWorker.ask_to_end`."""
        self._was_told_to_end = True
        self._call("ask_to_end")

    def kill(self) -> bool:
        """See `RunningWorker.kill`."""
        if self._ended is not None:
            return False
        # The worker dies with the actor that started it.
        self._was_told_to_end = True
        self._ray.kill(self._actor)
        return True

    def reap(self) -> str:
        """See `RunningWorker.reap`."""
        self._ray.kill(self._actor)
        return self._ended or "The worker ended."

    def _call(self, method: str, *arguments: bytes) -> None:
        getattr(self._actor, method).options(concurrency_group="requests").remote(*arguments)

    def _how_lost(self, error: Exception) -> str:
        _log.warning("A worker of Ray is lost", node=self._node.name, why=str(error))
        return f"The worker was lost, with its node {self._node.name} or the process that ran it."


def _check_head(address: str) -> None:
    """See that the head answers: without one, `ray.init` waits, and cannot be stopped.

    Raises:
        ConnectionError: it does not.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    if address != "auto":
        command += ["--address", address]
    try:
        checked = subprocess.run(command, capture_output=True, text=True, timeout=_CHECK_S)
    except subprocess.TimeoutExpired as error:
        raise ConnectionError(f"the head does not answer within {_CHECK_S:g} s") from error
    if checked.returncode != 0:
        said = checked.stderr.strip().splitlines()
        raise ConnectionError(said[-1] if said else "the head does not answer")


def import_ray() -> Any:
    """Ray, set up as it is to be run.

    Raises:
        SettingsError: it is not installed.
    """
    set_ray_environment()
    try:
        import ray
    except ModuleNotFoundError as error:
        raise SettingsError(
            "COSMOS_POOL=ray and `cosmos-serve node` need the extra `ray`: "
            "pip install 'cosmos-serve[ray]'"
        ) from error
    return ray


def _node(found: Any) -> Node:
    resources, num_slots = found.resources_total, int(found.resources_total[SLOT])
    return Node(
        id=found.node_id.hex(),
        name=found.node_name,
        num_slots=num_slots,
        num_gpus=int(resources.get("GPU", 0)) // num_slots,
    )
