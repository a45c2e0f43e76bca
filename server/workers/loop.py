"""The worker's side of the pool: what a worker is, and the loop that feeds it.

A worker process loads its model once and then takes one work order after another. This loop is the
same for the real worker and for those of the tests. It never speaks HTTP, opens no database and
imports no torch; the worker that it is given may.
"""

import dataclasses
import faulthandler
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from pipeline.errors import Cancelled, InputError, PipelineError, RankFailed
from pipeline.memory_plan import MemoryChoice, MemoryPlan
from pipeline.progress import Stage, StageStarted
from server.config.setting_types import PreviewChoice
from server.log.setup import configure_log
from server.log.stderr import unfailing
from server.workers.messages import (
    CancelledEvent,
    Done,
    Failed,
    Idle,
    Loading,
    Ready,
    RunEvent,
    WorkerEvent,
    WorkOrder,
    decode_work_order,
    encode_event,
    encode_work_order,
)
from server.workers.pipe import Pipe
from server.workers.verdicts import Judge, Verdict, Verdicts

_log = structlog.get_logger("worker")

ENDING_GRACE_S = 3.0
"""How long a run may go on after the server has closed the pipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What every worker of a pool is started with; plain values, because they travel as JSON.

    `weights` is the checkpoint's folder, or those of several, comma-separated. `guardrail` is
    `required`, `text`, `off` or, where the server asks an endpoint, its URL. `attention` is a
    backend or `auto`. `compile_cache` is the folder where Triton keeps its kernels for the next
    start. `memory` is where the model waits.
    `nvidia_sampling` is whether noise and times are those of NVIDIA's program. `num_ranks` is how
    many processes, each on a device of its own, work on one video together: the worker starts the
    others.
    `preview` is what makes the previews of a video.
    `scratch` is a folder for the files of a run: within it, or else where the system keeps such
    files, the pool gives each process its own and removes it with the process. `log_format` is
    `text` or `json`.
    """

    weights: str
    guardrail: str = "required"
    attention: str = "auto"
    compile_cache: str | None = None
    memory: MemoryChoice = "auto"
    nvidia_sampling: bool = False
    num_ranks: int = 1
    preview: PreviewChoice = "rgb"
    scratch: str | None = None
    log_format: str = "text"


class CannotLoad(PipelineError):
    """The model cannot be loaded, for a reason that needs no traceback."""

    code = "load_failed"


class Worker(Protocol):
    """What runs orders on one device; one object per process, used by one thread."""

    def __init__(self, device: str, options: WorkerOptions) -> None:
        """Take note of `device` (`cpu` or `cuda`) and the options; heavy work waits for `load`."""

    @property
    def memory(self) -> MemoryPlan:
        """The plan by which the loaded model is placed now."""

    def load(self, report: Callable[[Loading], None]) -> Ready:
        """Load the model; whatever is raised says why the slot is down.

        Raises:
            PipelineError: with a sentence for the operator, such as `CannotLoad`.
        """

    def run(
        self,
        order: WorkOrder,
        send: Callable[[RunEvent], None],
        cancelled: Callable[[], bool],
        judge: Judge,
    ) -> Done:
        """Do one order: send its events but the last one, and return that.

        `judge` has the server judge a frame; it may be called from several threads at once.

        Raises:
            Cancelled: `cancelled()` was seen to be true.
            PipelineError: the run failed for a reason that has a code and a sentence.
        """


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop this run, should it still be the one that runs."""

    job_id: str
    attempt: int


Request = WorkOrder | Cancel | Verdict
"""What a worker is sent."""

_ORDER, _CANCEL, _VERDICT = b"O", b"C", b"V"


def encode_request(request: Request) -> bytes:
    """The message for one request to a worker."""
    if isinstance(request, WorkOrder):
        return _ORDER + encode_work_order(request)
    tag = _CANCEL if isinstance(request, Cancel) else _VERDICT
    return tag + json.dumps(dataclasses.asdict(request)).encode()


def decode_request(message: bytes) -> Request:
    """Read one request. It comes from our own server, so a malformed one is our bug."""
    tag, body = message[:1], message[1:]
    assert tag in (_ORDER, _CANCEL, _VERDICT), f"a worker was sent the tag {tag!r}"
    if tag == _ORDER:
        return decode_work_order(body)
    fields = json.loads(body)
    return Cancel(**fields) if tag == _CANCEL else Verdict(**fields)


def serve_worker(pipe: Pipe, make: Callable[[], Worker]) -> bool:
    """Make a worker, load its model, and do orders until the server closes the pipe.

    Returns False when there was nothing to serve with: the server was told why.
    """

    def send(event: WorkerEvent) -> None:
        pipe.send(encode_event(event))

    inbox = _Inbox(pipe, send)
    try:
        worker = make()
        ready = worker.load(send)
    except PipelineError as error:
        send(Failed(code=error.code, message=str(error)))
        return False
    except Exception as error:
        _log.exception("The model could not be loaded")
        send(Failed(code=CannotLoad.code, message=f"{type(error).__name__}: {error}"))
        return False
    send(ready)
    while (order := inbox.next_order()) is not None:
        send(run_order(worker, order, send, inbox.cancelled, inbox.verdicts.judge))
        send(Idle(worker.memory))
    return True


def run_order(
    worker: Worker,
    order: WorkOrder,
    send: Callable[[RunEvent], None],
    cancelled: Callable[[], bool],
    judge: Judge,
) -> Done | CancelledEvent | Failed:
    """Have the worker do one order, and return the last event of the run.

    An error that the pipeline does not know goes to the log in full, the caller gets a plain
    sentence, and the worker lives on, unless its device or another of its processes is the cause.
    """
    stage: Stage | None = None

    def send_noting_stage(event: RunEvent) -> None:
        nonlocal stage
        if isinstance(event, StageStarted):
            stage = event.stage
        send(event)

    try:
        return worker.run(order, send_noting_stage, cancelled, judge)
    except Cancelled:
        return CancelledEvent(stage)
    except InputError as error:
        return Failed(code=error.code, message=str(error), field=error.field, context=error.context)
    except PipelineError as error:
        return Failed(code=error.code, message=str(error))
    except Exception as error:
        _log.exception("The run met an unforeseen error", job_id=order.job_id)
        if isinstance(error, RankFailed):
            os._exit(RANK_EXIT_CODE)
        if is_device_fault(error):
            os._exit(EXIT_CODE)  # at once: tidying up would call the device again
        message = (
            "The video could not be made: an error inside the worker, which its log describes."
        )
        return Failed(code="internal_error", message=message)


class _Inbox:
    """Reads requests while the worker works, so that they are heard in the middle of a run.

    A closed pipe means that the server has ended or wants no more of this worker. The run is
    cancelled, and if it goes on all the same, the process and all that it started are killed: a
    hung kernel must not hold the device.
    """

    def __init__(self, pipe: Pipe, send: Callable[[WorkerEvent], None]) -> None:
        self._pipe = pipe
        self._orders: queue.SimpleQueue[WorkOrder | None] = queue.SimpleQueue()
        self._current: Cancel | None = None
        self._stop_asked = threading.Event()
        self.verdicts = Verdicts(send, self.cancelled)
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next_order(self) -> WorkOrder | None:
        """Wait for the next order; None when there will be none."""
        return self._orders.get()

    def cancelled(self) -> bool:
        """Whether the order that was taken last is to stop."""
        return self._stop_asked.is_set()

    def _read(self) -> None:
        while (message := self._pipe.receive()) is not None:
            request = decode_request(message)
            if isinstance(request, WorkOrder):
                # The pool sends an order only when the last run is over, so this is the next one.
                self._current = Cancel(request.job_id, request.attempt)
                self._stop_asked.clear()
                self.verdicts.forget()
                self._orders.put(request)
            elif isinstance(request, Verdict):
                if Cancel(request.job_id, request.attempt) == self._current:
                    self.verdicts.add(request)
            elif request == self._current:
                self._stop_asked.set()
        self._stop_asked.set()
        self._orders.put(None)
        time.sleep(ENDING_GRACE_S)
        os.killpg(0, signal.SIGKILL)


def worker_class(path: str) -> Callable[[str, WorkerOptions], Worker]:
    """The class that `module:Class` names.

    Raises:
        CannotLoad: the path has another form, or there is no such module or class.
    """
    module_name, _, class_name = path.partition(":")
    try:
        found: Callable[[str, WorkerOptions], Worker] = getattr(
            importlib.import_module(module_name), class_name
        )
    except (ImportError, AttributeError, ValueError) as error:
        raise CannotLoad(
            f"There is no worker {path!r}: {error}. It is given as module:Class."
        ) from error
    return found


def main(pipe: int, worker: str, device: str, options: dict[str, Any]) -> None:
    """A worker process, from its first line to its exit code.

    `pipe` is the descriptor of its end; `worker` is `module:Class`; `device` is `cpu` or `cuda`;
    `options` are those of `WorkerOptions`.
    """
    # What a worker prints goes to stderr, too: see `server.workers.process`.
    sys.stdout = sys.stderr = unfailing(sys.stderr)
    configure_log(options["log_format"])
    faulthandler.enable()
    served = serve_worker(
        Pipe.at(pipe), lambda: worker_class(worker)(device, WorkerOptions(**options))
    )
    sys.stderr.flush()
    # Tidying up torch and all that it imported takes seconds, and the system does it anyhow.
    os._exit(0 if served else 1)


EXIT_CODE = 70
"""What a worker ends with whose device failed."""

RANK_EXIT_CODE = 71
"""What a worker of several processes ends with when one of them failed."""

_MARKERS = ("cuda", "cudnn", "cublas", "nccl", "nvml")


def is_device_fault(error: BaseException | None) -> bool:
    """Whether the error, or one that led to it, speaks of CUDA or a library of its family.

    A program that failed does not: a compiler's command names the files of CUDA that it was given.
    """
    while error is not None:
        text = f"{type(error).__name__}: {error}".lower()
        is_program = isinstance(error, subprocess.CalledProcessError)
        if not is_program and any(marker in text for marker in _MARKERS):
            return True
        error = error.__cause__ or error.__context__
    return False
