"""One worker process, as its pool sees it: start it, talk to it, end it, say how it ended.

The process is started with `subprocess` rather than `multiprocessing`: it gets an environment and
a session of its own without any change to ours, does not import our `__main__` again, brings no
helper processes, and nothing is pickled. It is spawned, never forked, because CUDA does not
survive a fork. The two sides share a socket that carries the messages of `server.workers.messages`.
"""

import contextlib
import dataclasses
import os
import queue
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.child_process import python_command, stop_signals_held
from server.data_folder import RUN_MARKER
from server.workers.devices import kind_and_indices
from server.workers.loop import (
    EXIT_CODE,
    RANK_EXIT_CODE,
    Request,
    WorkerOptions,
    encode_request,
)
from server.workers.messages import WorkerEvent, decode_event
from server.workers.pipe import MAX_EVENT_BYTES, Pipe

_EXIT_S = 1.0
"""How long a worker that has closed its pipe may take to exit by itself."""

# glibc's heap otherwise grows by 50 to 110 MB over a run and does not shrink again. With limits
# below the size of common tensors a third of a video's time would go into mapping each of them.
_CPU_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "MALLOC_MMAP_THRESHOLD_": "4194304",
    "MALLOC_TRIM_THRESHOLD_": "8388608",
}
_WAIT_POLICY = "OMP_WAIT_POLICY"

_ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_ALLOCATOR = "expandable_segments:True"
"""Videos of several lengths otherwise leave free memory in pieces that none fits into."""

_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""By which the processes of one worker find each other: they are on this machine."""

_SECRETS = {
    *{"COSMOS_KEY", "COSMOS_DATABASE", "RAY_AUTH_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"},
    *{"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"},
}
"""What a worker has no use for."""

_FP_FUSION = "TRITON_DEFAULT_FP_FUSION"
"""Triton's default for it changes with its release 3.10, and with it the last bits of a video."""

_STDERR = 2
"""Where a worker's stdout goes too: whatever it prints is for the server's log."""


@contextmanager
def worker_process(worker: str, device: str, options: WorkerOptions) -> "Iterator[WorkerProcess]":
    """Start a worker, with a folder of its own in `scratch` that goes with the block."""
    with tempfile.TemporaryDirectory(
        prefix="cosmos-", dir=options.scratch, ignore_cleanup_errors=True
    ) as own:
        (Path(own) / RUN_MARKER).touch()
        yield WorkerProcess(worker, device, dataclasses.replace(options, scratch=own))


class WorkerProcess:
    """A running worker. Every method may be called from any thread.

    It dies with the thread that starts it, so that thread has to live as long as the pool.
    """

    def __init__(self, worker: str, device: str, options: WorkerOptions) -> None:
        """Start the class `module:Class` on a device as `devices_from` names it.

        Raises:
            OSError, RuntimeError: the system starts no further process, or no further thread.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = _spawn(worker, device, options, theirs)
            except OSError:
                ours.close()
                raise
        self._pipe = Pipe(ours)
        self._requests: queue.SimpleQueue[Request | bytes | None] = queue.SimpleQueue()
        self._is_reaped = False
        self._lock = threading.Lock()
        self._writer = threading.Thread(target=self._write, name=f"to {device}", daemon=True)
        try:
            self._writer.start()
        except RuntimeError:
            _kill_group(self._process.pid)
            self._process.wait()
            self._pipe.close()
            raise

    def post(self, request: Request | bytes) -> None:
        """Send a request, encoded or not, without waiting for the worker to read it."""
        self._requests.put(request)

    def receive(self) -> WorkerEvent | None:
        """Wait for the next event; None once the worker has closed its side, as by dying.

        Raises:
            BadMessage: what arrived is not an event.
        """
        message = self.receive_message()
        return None if message is None else decode_event(message)

    def receive_message(self) -> bytes | None:
        """`receive`, without reading what the message says."""
        return self._pipe.receive(MAX_EVENT_BYTES)

    def ask_to_end(self) -> None:
        """Close our side of the pipe: the worker cancels its run and exits."""
        with self._lock:
            if not self._is_reaped:
                self._pipe.finish()

    def kill(self) -> bool:
        """Kill the worker and everything that it started; False if it had ended already."""
        with self._lock:
            if not self._is_reaped:
                _kill_group(self._process.pid)
            return not self._is_reaped

    def reap(self) -> str:
        """Wait for the worker to exit, end what it left behind, and say how it ended."""
        pid, deadline = self._process.pid, time.monotonic() + _EXIT_S
        state = os.WEXITED | os.WNOWAIT | os.WNOHANG
        while os.waitid(os.P_PID, pid, state) is None and time.monotonic() < deadline:
            time.sleep(0.005)
        with self._lock:
            # Not waited for yet, so the process id cannot belong to somebody else by now.
            _kill_group(pid)
            self._is_reaped = True
        code = self._process.wait()
        self._pipe.finish()
        self._requests.put(None)
        self._writer.join()
        self._pipe.close()
        return exit_sentence(code)

    def _write(self) -> None:
        while (request := self._requests.get()) is not None:
            message = request if isinstance(request, bytes) else encode_request(request)
            try:
                self._pipe.send(message)
            except OSError:
                return  # the reader meets the same end, and says so


def exit_sentence(code: int) -> str:
    """How a process with this exit code ended."""
    if code == EXIT_CODE:
        return "The GPU reported an error, which the worker's log describes: the worker was ended."
    if code == RANK_EXIT_CODE:
        return "One of the worker's processes failed, as its log describes: all of them were ended."
    if code >= 0:
        return f"The worker ended with exit code {code}."
    number = -code
    if number == signal.SIGKILL:
        return "The worker was killed, probably because the machine is out of memory."
    name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
    if number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE):
        return f"The worker crashed ({name})."
    return f"The worker was ended from outside ({name})."


def _spawn(
    worker: str, device: str, options: WorkerOptions, pipe: socket.socket
) -> subprocess.Popen[bytes]:
    kind, indices = kind_and_indices(device)
    environment = worker_environment(kind, indices, options.compile_cache, {**os.environ})
    values = {
        "pipe": pipe.fileno(),
        "worker": worker,
        "device": kind,
        "options": dataclasses.asdict(options),
    }
    with stop_signals_held():
        return subprocess.Popen(
            python_command("server.workers.loop", values),
            env=environment if options.num_ranks == 1 else {**_LOOPBACK, **environment},
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
            pass_fds=[pipe.fileno()],
            start_new_session=True,
        )


def worker_environment(
    kind: str, indices: str, compile_cache: str | None, environment: Mapping[str, str]
) -> dict[str, str]:
    """The environment of a worker on `cpu` or `cuda`: ours without secrets, and what torch is to
    be told. Only `server.config.settings` reads settings from it.
    """
    kept = {name: value for name, value in environment.items() if name.upper() not in _SECRETS}
    if kind == "cuda":
        extra = {"CUDA_VISIBLE_DEVICES": indices, _FP_FUSION: environment.get(_FP_FUSION, "1")}
        if not any(name in environment for name in _ALLOCATOR_SETTINGS):
            extra["PYTORCH_ALLOC_CONF"] = _ALLOCATOR
    else:
        # Threads that wait spin otherwise, and take the cores from whatever else runs here.
        waiting = environment.get(_WAIT_POLICY, "PASSIVE")
        extra = {**_CPU_ENVIRONMENT, _WAIT_POLICY: waiting}
    if compile_cache is not None:
        extra["TRITON_CACHE_DIR"] = str(Path(compile_cache) / "triton")
    return {**kept, **extra}


def _kill_group(pid: int) -> None:
    """Kill a worker and what it started; it leads a process group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
