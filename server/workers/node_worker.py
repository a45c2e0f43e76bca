"""A slot's part on its node of Ray: an actor that starts the worker and passes its messages on.

The worker is the process that the pool of one machine starts, and knows nothing of Ray. Its files
and compiled kernels stay on the node, and what it makes goes to the server as messages: it needs
no disk of the server's, and has no credentials.
"""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from server.config.node import NodeSettings
from server.workers.devices import CPU
from server.workers.local_pool import kept_in
from server.workers.loop import CannotLoad, WorkerOptions
from server.workers.messages import BadMessage, Failed, encode_event
from server.workers.process import WorkerProcess, worker_process


class NodeWorker:
    """The actor. `messages` runs as long as the worker; the others are called meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: WorkerProcess | None = None
        self._is_ending = False

    def messages(
        self, release: str, worker: str, options: Mapping[str, Any]
    ) -> Iterator[bytes | str]:
        """Start `module:Class` on the GPUs that Ray has given to this actor, or on the CPU.

        Yields each message of the worker, and at its end a sentence that says how it ended.
        `release` is the server's own, and `options` are as of `WorkerOptions`.
        """
        ours = version("cosmos-serve")
        if ours != release:
            message = f"cosmos-serve {ours} is installed on the node, and {release} at the server."
            yield encode_event(Failed(code=CannotLoad.code, message=message))
            yield message
            return
        try:
            devices = _devices()
            on_node = replace(_on_this_node(WorkerOptions(**options)), num_ranks=len(devices))
            with worker_process(worker, "+".join(devices), on_node) as process:
                yield from self._messages_of(process)
        except OSError as error:
            yield f"The worker could not be started: {error}."

    def _messages_of(self, process: WorkerProcess) -> Iterator[bytes | str]:
        with self._lock:
            self._process = process
            if self._is_ending:
                process.ask_to_end()
        bad = None
        try:
            while (message := process.receive_message()) is not None:
                yield message
        except BadMessage as error:
            process.kill()
            bad = f"{error} The worker was stopped."
        ended = process.reap()
        yield bad or ended

    def post(self, request: bytes) -> None:
        """Pass on a request to the worker; it is lost if there is none."""
        with self._lock:
            if self._process is not None:
                self._process.post(request)

    def ask_to_end(self) -> None:
        """Have the worker cancel its run and exit."""
        with self._lock:
            self._is_ending = True
            if self._process is not None:
                self._process.ask_to_end()


def _devices() -> list[str]:
    import ray

    gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    return [f"cuda:{gpu}" for gpu in gpus] or [CPU]


def _on_this_node(options: WorkerOptions) -> WorkerOptions:
    """The options with this machine's own checkpoint and folders, where it has its own."""
    node = NodeSettings()
    return kept_in(node.data, replace(options, weights=node.weights or options.weights))
