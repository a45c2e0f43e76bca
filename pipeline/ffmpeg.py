"""A child ffmpeg that is fed raw frames through a pipe, and ends with the work.

It is a child so that a codec that crashes does not take the worker with it. What it is asked to
do is said in `encode.py`.
"""

import os
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from pipeline.child_process import program_command
from pipeline.errors import EncoderKilled, EncodingFailed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LOOK_AHEAD = 4
"""Frames that may wait for ffmpeg: as many as one latent frame decodes to."""

POLL_S = 0.1
"""How often `check` is called while waiting for ffmpeg."""

LOG_LINES = 20
"""Lines of ffmpeg's stderr that are kept for the error."""


def feed_ffmpeg(
    arguments: list[str],
    frames: "Iterable[npt.NDArray[np.uint8]]",
    check: Callable[[], None],
) -> None:
    """Start ffmpeg, feed it frames of uint8 through stdin, and wait until it has ended.

    The frames are taken on the calling thread. Another thread writes them, so that ffmpeg works
    while the next ones are made; copies of at most `LOOK_AHEAD` frames are held. However this
    ends, ffmpeg has ended before.

    Args:
        check: called for each frame and every `POLL_S` of waiting; what it raises ends ffmpeg.
    """
    # The blocks are left from the last to the first: ffmpeg is killed if it still runs, which
    # ends both threads, and its pipes are closed once no thread uses them.
    with (
        _start([find_ffmpeg(), *arguments]) as process,
        ThreadPoolExecutor(1, "ffmpeg-log") as listener,
        ThreadPoolExecutor(1, "ffmpeg-frames") as writer,
        _killed_at_the_end(process),
    ):
        feed = _Feed(process, listener, writer, check)
        for frame in frames:
            check()
            feed.write(frame)
        feed.finish()


class _Feed:
    """The frames on their way into a running ffmpeg. Every wait ends if `check` raises."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        listener: Executor,
        writer: Executor,
        check: Callable[[], None],
    ) -> None:
        assert process.stdin is not None
        assert process.stderr is not None
        self._process = process
        self._stdin = process.stdin
        self._log = listener.submit(deque[bytes], process.stderr, LOG_LINES)
        self._writer = writer
        self._check = check
        self._waiting: deque[Future[None]] = deque()

    def write(self, frame: "npt.NDArray[np.uint8]") -> None:
        """Queue a copy of one frame, once fewer than `LOOK_AHEAD` are waiting."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) == LOOK_AHEAD):
            self._finish_oldest()
        self._waiting.append(self._writer.submit(_write_all, self._stdin, frame.tobytes()))

    def finish(self) -> None:
        """Wait until ffmpeg has read every frame and ended."""
        while self._waiting:
            self._finish_oldest()
        self._stdin.close()
        self._wait_for_exit()
        if self._process.returncode != 0:
            raise self._failure()

    def _finish_oldest(self) -> None:
        while not wait([self._waiting[0]], POLL_S).done:
            self._check()
        try:
            self._waiting.popleft().result()
        except BrokenPipeError as error:
            self._wait_for_exit()
            raise self._failure() from error

    def _wait_for_exit(self) -> None:
        while True:
            try:
                self._process.wait(POLL_S)
                return
            except subprocess.TimeoutExpired:
                self._check()

    def _failure(self) -> EncodingFailed:
        """The error of an ffmpeg that has ended, and so has closed its stderr."""
        status = self._process.returncode
        ending = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        log = b"".join(self._log.result()).decode(errors="replace").strip()
        kind = EncoderKilled if status == -signal.SIGKILL else EncodingFailed
        return kind(f"ffmpeg {ending} and said: {log or 'nothing'}")


def _write_all(pipe: IO[bytes], data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[pipe.write(rest) :]


def encoders() -> frozenset[str]:
    """The names of the encoders that our ffmpeg has.

    Raises:
        EncodingFailed: there is no ffmpeg, or it does not run.
    """
    # The list stands behind a line of dashes: its flags, its name, and what it is.
    listed = _listed("-encoders").partition("---")[2].splitlines()[1:]
    return frozenset(line.split()[1] for line in listed)


def protocols() -> frozenset[str]:
    """The names of the protocols that our ffmpeg has; `encoders` says what it raises."""
    return frozenset(_listed("-protocols").split())


def _listed(option: str) -> str:
    try:
        listed = subprocess.run(
            [find_ffmpeg(), "-hide_banner", option],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EncodingFailed(f"ffmpeg does not run: {error}") from error
    return listed.stdout


def find_ffmpeg() -> str:
    """The path of our ffmpeg.

    Raises:
        EncodingFailed: there is none that can be run.
    """
    # Not above: a machine that only computes needs neither ffmpeg nor this.
    import imageio_ffmpeg

    try:
        name: str = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise EncodingFailed(str(error)) from error
    executable = shutil.which(name)
    if executable is None:
        raise EncodingFailed(
            f"{name} is not a program that can be run; "
            "let IMAGEIO_FFMPEG_EXE name an ffmpeg, or unset it."
        )
    return executable


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start ffmpeg in a session of its own, so that a Ctrl-C does not reach it.

    For Linux the thread that starts it is its parent. It waits for ffmpeg, so it ends first only
    if the whole process dies.
    """
    try:
        return subprocess.Popen(
            program_command(command),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise EncodingFailed(f"ffmpeg could not be started: {error}.") from error


@contextmanager
def _killed_at_the_end(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
