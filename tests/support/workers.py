"""Workers that import no torch: the prompt says what goes wrong, and when.

The pool starts them as it starts the real one: `Settings.worker = "workers:ScriptedWorker"`.
"""

import ctypes
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import current_thread, main_thread

from pipeline.errors import Cancelled, EncoderKilled, ImageTooLarge, OutOfMemory, RankFailed
from pipeline.memory_plan import MemoryPlan
from pipeline.progress import Note, Restarted, Stage, StageStarted, StepDone
from pipeline.ranks import start_rank
from server.workers.gpu import end_with
from server.workers.loop import CannotLoad, WorkerOptions
from server.workers.messages import (
    MAX_CHUNK_BYTES,
    Artifact,
    Chunk,
    Done,
    Idle,
    Loading,
    Preview,
    Ready,
    RunEvent,
    WorkOrder,
    encode_event,
)
from server.workers.verdicts import Judge, ServerGuardrail

DIGEST = "d1" * 32
"""The checkpoint digest that these workers report."""

SIZE = (96, 64)
"""Width and height of a video that starts from no picture."""

BYTES = 65536
"""The size of the file that they make unless they are told otherwise."""

THUMBNAIL = b"RIFF\x0e\0\0\0WEBPVP8 \0\0"
"""What they send as a thumbnail: it begins as one does."""

CONTENT_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".gif": "image/gif",
}

Send = Callable[[RunEvent], None]


class Script:
    """A prompt's commands: parts between `;` that begin with a known word, with its arguments."""

    def __init__(self, order: WorkOrder) -> None:
        self._attempt = order.attempt
        self._commands = {
            words[0]: words[1:]
            for part in order.spec.prompt.split(";")
            if (words := part.split()) and words[0] in ScriptedWorker.COMMANDS
        }

    def __contains__(self, command: str) -> bool:
        return command in self._commands

    def number(self, command: str, default: float) -> float:
        """The command's number, or the default if it, or its number, is not there."""
        numbers = [word for word in self._commands.get(command, []) if word != "once"]
        return float(numbers[0]) if numbers else default

    def faults(self, moment: int | Stage) -> Iterator[str]:
        """The faults due after this step, or at the start of this stage."""
        for command, words in self._commands.items():
            when = next((word for word in words if word != "once"), "1")
            if command not in ScriptedWorker.SETTINGS and when == str(moment):
                if "once" in words and self._attempt > 1:
                    continue
                yield command


class ScriptedWorker:
    """Makes a small, deterministic file step by step, unless the prompt asks for a fault.

    A prompt is ordinary text with commands between semicolons, such as
    `a red car; sleep 0.05; killed 2 once`. Text that begins with no command does nothing.

    Settings:
        sleep S     each step takes S seconds (default 0), and looks for a cancel meanwhile
        bytes N     the file has N bytes (default 65536)
        previews N  each of the first N steps has a preview, see `preview_of`
        playable    the file is a video that a browser can play
        notes N     writes N lines of 2000 characters before its first step
        stderr N    writes N letters to stderr before its first step

    Faults, each after step N (`killed 3`; default 1) or at the start of a stage (`hang decode`),
    and with `once` on attempt 1 only:
        refuse      fails with an input error: ImageTooLarge, field `image_url`
        memory      fails with OutOfMemory
        encoder     fails because ffmpeg was killed from outside
        raise       raises a RuntimeError that nobody foresaw
        cuda        raises what torch raises when its device has failed
        rank        raises what it raises when one of its processes has failed
        exit        ends its process with exit code 3
        killed      its process gets SIGKILL
        segfault    its process gets a segmentation fault
        stopped     its process gets SIGSTOP: alive, and silent for ever
        hang        sleeps for ever, ignoring cancel
        wait        sleeps until it is cancelled
        print       writes to stdout, which is harmless
        garbage     writes text into the pipe
        nonsense    sends a well-framed message of an unknown type
        idle        says that it is idle, in the middle of its run
        offload     runs out of memory as the real worker does: it begins again, offloaded, and
                    from then on has enough
        half        sends half a message and then sleeps for ever
        child       starts a process of its own that sleeps, and goes on

    Faults at the end, whose number does not count:
        small       makes a video of half the width and height
        liesize     reports a size that is one byte too large
        liehash     reports the hash of other bytes
        noartifact  is done without an Artifact
        unjudged    has no frame judged, though there is a guardrail
        flood       sends chunks until it is stopped or cancelled
    """

    SETTINGS = frozenset(
        {"sleep", "bytes", "notes", "stderr", "small", "liesize", "liehash", "noartifact", "flood"}
        | {"unjudged", "playable", "previews"}
    )
    FAULTS = frozenset(
        {"refuse", "memory", "offload", "raise", "cuda", "exit", "killed", "segfault", "stopped"}
        | {"rank", "hang", "wait", "print", "garbage", "nonsense", "idle", "half", "child"}
        | {"encoder"}
    )
    COMMANDS = SETTINGS | FAULTS
    NEEDS_PROCESS = FAULTS - {"refuse", "memory", "encoder", "offload", "raise", "wait"}

    def __init__(self, device: str, options: WorkerOptions) -> None:
        self._device = device
        self._options = options
        self.memory = MemoryPlan(options.memory if options.memory != "auto" else "resident")

    def load(self, report: Callable[[Loading], None]) -> Ready:
        report(Loading("Reading the script", 0.5))
        name = f"scripted {self._device}"
        return Ready(DIGEST, name, "scripted", self.memory, "plain", versions={"script": "1"})

    def run(
        self, order: WorkOrder, send: Send, cancelled: Callable[[], bool], judge: Judge
    ) -> Done:
        script = Script(order)
        try:
            return self._make(order, script, send, cancelled, judge)
        except _RanOut:
            self.memory = MemoryPlan.STREAM
            send(Restarted("The script ran out of memory, so it is begun again."))
            return self._make(order, script, send, cancelled, judge)

    def _make(
        self,
        order: WorkOrder,
        script: Script,
        send: Send,
        cancelled: Callable[[], bool],
        judge: Judge,
    ) -> Done:
        def start(stage: Stage) -> None:
            send(StageStarted(stage))
            self._pass(script, stage, cancelled)

        start(Stage.TEXT)
        send(Note("The script begins."))
        for number in range(int(script.number("notes", 0))):
            send(Note(f"{number} " + "x" * 2000))
        sys.stderr.write("x" * int(script.number("stderr", 0)))
        start(Stage.DENOISE)
        self._steps(order, script, send, cancelled)
        start(Stage.DECODE)
        if self._options.guardrail.startswith("http") and "unjudged" not in script:
            _have_judged(order.spec.num_frames, ServerGuardrail(judge))
        start(Stage.ENCODE)
        _send_file(order, script, send, cancelled)
        return Done(order.spec.tier, {"text": 0.0, "denoise": 0.0, "decode": 0.0, "encode": 0.0})

    def _steps(
        self, order: WorkOrder, script: Script, send: Send, cancelled: Callable[[], bool]
    ) -> None:
        seconds, num_steps = script.number("sleep", 0.0), order.spec.num_inference_steps
        for step in range(1, num_steps + 1):
            _sleep(seconds, cancelled)
            send(StepDone(step, num_steps, seconds, seconds * (num_steps - step)))
            if step <= script.number("previews", 0):
                send(Preview(preview_of(step)))
            self._pass(script, step, cancelled)

    def _pass(self, script: Script, moment: int | Stage, cancelled: Callable[[], bool]) -> None:
        for fault in script.faults(moment):
            if fault in self.NEEDS_PROCESS and current_thread() is not main_thread():
                raise AssertionError(f"{fault} needs a worker process: see servers.serving")
            if fault == "wait":
                _sleep(3600, cancelled)
            elif fault != "offload" or self.memory is MemoryPlan.RESIDENT:
                _FAULTS[fault]()


def _have_judged(num_frames: int, guardrail: ServerGuardrail) -> None:
    """Frames that are grey: each as bright as its number."""
    # Not above: they would take most of the time that a scripted worker takes to start.
    import numpy as np

    from pipeline.guardrail import judged

    frames = (np.full((64, 96, 3), number, np.uint8) for number in range(num_frames))
    deque(judged(guardrail, frames, num_frames), maxlen=0)


class _RanOut(Exception):
    """A scripted worker has run out of memory."""


class SlowLoad(ScriptedWorker):
    """Loads for as long as a file named `loading` is in the weights folder."""

    def load(self, report: Callable[[Loading], None]) -> Ready:
        report(Loading("Waiting for the file to go", 0.25))
        while (Path(self._options.weights) / "loading").exists():
            time.sleep(0.01)
        return super().load(report)


class WithDigest(ScriptedWorker):
    """Reports the digest of the checkpoint that it is given."""

    def load(self, report: Callable[[Loading], None]) -> Ready:
        # Not above: other scripts start sooner without it.
        from weights.checkpoints import digest_of, open_checkpoints

        digest = digest_of(open_checkpoints(self._options.weights))
        return replace(super().load(report), checkpoint_digest=digest)


class GpusSeen(ScriptedWorker):
    """Reports which GPUs it sees, and how many processes are to work with it."""

    def load(self, report: Callable[[Loading], None]) -> Ready:
        gpus = os.environ["CUDA_VISIBLE_DEVICES"]
        return replace(super().load(report), device=f"{self._options.num_ranks} on {gpus}")


class PlainKernels(ScriptedWorker):
    """Its kernels cannot be compiled."""

    def load(self, report: Callable[[Loading], None]) -> Ready:
        return replace(super().load(report), kernels_problem="There is no compiler.")


class LoadFails(ScriptedWorker):
    """Its checkpoint is no good."""

    def load(self, report: Callable[[Loading], None]) -> Ready:
        raise ValueError("The transformer lacks the tensor 'proj_out.weight'.")


class TwoProcesses(ScriptedWorker):
    """Its second process does nothing, and is missed when it ends."""

    def load(self, report: Callable[[Loading], None]) -> Ready:
        start_rank(1, ["sleep", "3600"], end_with)
        return super().load(report)


class LacksCheckpointOnce(ScriptedWorker):
    """The checkpoint of its first run is not there, as where its folder was replaced."""

    def run(
        self, order: WorkOrder, send: Send, cancelled: Callable[[], bool], judge: Judge
    ) -> Done:
        if order.attempt == 1:
            raise CannotLoad("No checkpoint is loaded that is sampled by trigflow.")
        return super().run(order, send, cancelled, judge)


class LoadDies(ScriptedWorker):
    """Killed while it loads."""

    def load(self, report: Callable[[Loading], None]) -> Ready:
        report(Loading("Reading the transformer", 0.5))
        os.kill(os.getpid(), signal.SIGKILL)
        return super().load(report)


def file_of(order: WorkOrder, size: int = BYTES) -> bytes:
    """The file that a ScriptedWorker makes of an order; it depends on the spec and the media."""
    seed = hashlib.sha256(json.dumps(order.spec.to_json()).encode())
    for name, pictures in order.media.items():
        seed.update(name.encode() + b"".join(picture.rgb for picture in pictures))
    return hashlib.shake_256(seed.digest()).digest(size)


def preview_of(step: int) -> bytes:
    """What is sent after a step, as a browser sees it by its first bytes."""
    return b"RIFF\0\0\0\0WEBP" + bytes([step])


def _send_file(order: WorkOrder, script: Script, send: Send, cancelled: Callable[[], bool]) -> None:
    sizes = [(p.width, p.height) for pictures in order.media.values() for p in pictures]
    width, height = sizes[0] if sizes else SIZE
    data, thumbnail = file_of(order, int(script.number("bytes", BYTES))), THUMBNAIL
    if "playable" in script:
        data, thumbnail = _shown(width, height)
    while "flood" in script:
        _check(cancelled)
        send(Chunk(bytes(MAX_CHUNK_BYTES)))
    for start in range(0, len(data), MAX_CHUNK_BYTES):
        _check(cancelled)
        send(Chunk(data[start : start + MAX_CHUNK_BYTES]))
    if "noartifact" in script:
        return
    suffix = order.spec.container.suffix
    described = b"something else" if "liehash" in script else data
    send(
        Artifact(
            kind="video",
            name=f"video{suffix}",
            content_type=CONTENT_TYPES[suffix],
            size=len(data) + 1 if "liesize" in script else len(data),
            sha256=hashlib.sha256(described).hexdigest(),
            width=width // (2 if "small" in script else 1),
            height=height // (2 if "small" in script else 1),
            frames=order.spec.num_frames,
        )
    )
    send(Chunk(thumbnail))
    send(
        Artifact(
            kind="thumbnail",
            name="thumbnail.webp",
            content_type="image/webp",
            size=len(thumbnail),
            sha256=hashlib.sha256(thumbnail).hexdigest(),
            width=48,
            height=32,
            frames=1,
        )
    )


def _shown(width: int, height: int) -> tuple[bytes, bytes]:
    """A video and a thumbnail that a browser shows."""
    # Not above: other scripts need neither ffmpeg nor Pillow.
    from clips import clip
    from PIL import Image

    thumbnail = io.BytesIO()
    Image.new("RGB", (48, 32), "teal").save(thumbnail, "WEBP")
    return clip(source=f"testsrc2=s={width}x{height}:r=16:d=3"), thumbnail.getvalue()


def _check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled("The script was cancelled.")


def _sleep(seconds: float, cancelled: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    _check(cancelled)
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.01))
        _check(cancelled)


def _refuse() -> None:
    raise ImageTooLarge("image_url", "The picture is too large.", {"max_width": 64})


def _memory() -> None:
    raise OutOfMemory("The device has too little memory for this video.")


def _encoder() -> None:
    raise EncoderKilled("ffmpeg was killed by signal 9 and said: nothing")


def _offload() -> None:
    raise _RanOut


def _raise() -> None:
    raise RuntimeError("a secret that no client may see")


def _cuda() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _rank() -> None:
    raise RankFailed("This process cannot go on with the other ranks.")


def _hang() -> None:
    while True:
        time.sleep(3600)


def _pipe() -> int:
    """The pipe's descriptor: the one socket that a worker has beside its standard streams."""
    return next(
        int(entry.name)
        for entry in Path("/proc/self/fd").iterdir()
        if int(entry.name) > 2 and entry.is_symlink() and entry.is_socket()
    )


def _write(data: bytes) -> None:
    os.write(_pipe(), data)


def _idle() -> None:
    message = encode_event(Idle(MemoryPlan.RESIDENT))
    _write(len(message).to_bytes(4, "big") + message)


def _half() -> None:
    _write((1000).to_bytes(4, "big") + b"{")
    _hang()


_FAULTS: dict[str, Callable[[], object]] = {
    "refuse": _refuse,
    "memory": _memory,
    "encoder": _encoder,
    "offload": _offload,
    "raise": _raise,
    "cuda": _cuda,
    "rank": _rank,
    "exit": lambda: os._exit(3),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hang": _hang,
    "print": lambda: print("a line on stdout", flush=True),
    "garbage": lambda: _write(b"this is not a message\n"),
    "nonsense": lambda: _write(b'\0\0\0\x12\0\0\0\x0e{"type":"Boo"}'),
    "idle": _idle,
    "half": _half,
    "child": lambda: subprocess.Popen(["sleep", "3600"]),
}
