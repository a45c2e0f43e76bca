"""How ffmpeg is run: while frames are made, in bounded memory, and never left behind."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from paths import ROOT, SUPPORT, TESTS

from pipeline.child_process import STOP_SIGNALS
from pipeline.encode import encode_video
from pipeline.errors import Cancelled, EncoderKilled, EncodingFailed
from pipeline.ffmpeg import LOOK_AHEAD
from pipeline.spec import Container, Quality

Frame = npt.NDArray[np.uint8]

SIZE = 512
"""A frame of this width and height is far larger than the buffer of a pipe."""

PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """No child, not even a dead one; no thread; and no file but a finished one."""
    children = psutil.Process().children()
    threads = threading.enumerate()
    yield
    assert psutil.Process().children() == children
    assert threading.enumerate() == threads
    assert [path for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def encode(
    frames: Iterable[Frame],
    out: Path,
    check: Callable[[], None] = lambda: None,
    *,
    container: Container = Container.X264,
    num_frames: int = 24,
) -> None:
    encode_video(
        frames,
        container,
        Quality.LOW,
        width=SIZE,
        height=SIZE,
        num_frames=num_frames,
        out=out,
        check=check,
    )


def noise(num_frames: int = 24) -> Iterator[Frame]:
    random = np.random.default_rng(0)
    for _ in range(num_frames):
        yield random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def running_ffmpeg() -> psutil.Process:
    """The child, once it has become ffmpeg: in between its command line may be empty."""

    def found() -> list[psutil.Process]:
        lines = [(child, child.cmdline()) for child in psutil.Process().children()]
        return [child for child, line in lines if "rawvideo" in line and "-c" not in line[:4]]

    wait_until(lambda: bool(found()))
    (child,) = found()
    return child


def suspend(process: psutil.Process) -> None:
    process.suspend()
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED)


def wait_until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_ffmpeg_writes_while_later_frames_are_made(tmp_path: Path) -> None:
    part = tmp_path / "clip.mov.part"

    def frames() -> Iterator[Frame]:
        yield from noise(23)
        wait_until(lambda: part.exists() and part.stat().st_size > 100_000)
        yield from noise(1)

    encode(frames(), tmp_path / "clip.mov", container=Container.PRORES4444)
    assert (tmp_path / "clip.mov").exists()


def test_frames_run_only_a_few_ahead_of_a_stuck_ffmpeg(
    tmp_path: Path,
) -> None:
    num_made = 0
    checks_since_a_frame = 0

    def frames() -> Iterator[Frame]:
        nonlocal num_made, checks_since_a_frame
        for frame in noise():
            if num_made == 1:  # the first is asked for before ffmpeg is started
                suspend(running_ffmpeg())
            num_made += 1
            checks_since_a_frame = 0
            yield frame

    def check() -> None:
        nonlocal checks_since_a_frame
        checks_since_a_frame += 1
        if checks_since_a_frame == 10:
            raise Cancelled("The video was cancelled.")

    with pytest.raises(Cancelled):
        encode(frames(), tmp_path / "clip.mp4", check)
    # ffmpeg may have read the first one before it was stopped.
    assert LOOK_AHEAD + 1 <= num_made <= LOOK_AHEAD + 2


def test_an_ffmpeg_that_does_not_end_can_be_cancelled(tmp_path: Path) -> None:
    stuck = False

    def frames() -> Iterator[Frame]:
        nonlocal stuck
        yield from noise()
        running_ffmpeg().suspend()
        stuck = True

    def check() -> None:
        if stuck:
            raise Cancelled("The video was cancelled.")

    with pytest.raises(Cancelled):
        encode(frames(), tmp_path / "clip.mp4", check)
    assert list(tmp_path.iterdir()) == []


def test_every_frame_is_checked_for_a_cancel_even_if_nothing_waits(tmp_path: Path) -> None:
    num_made = 0

    def frames() -> Iterator[Frame]:
        nonlocal num_made
        for frame in noise():
            num_made += 1
            yield frame

    def check() -> None:
        if num_made == 2:
            raise Cancelled("The video was cancelled.")

    with pytest.raises(Cancelled):
        encode(frames(), tmp_path / "clip.mp4", check)
    assert num_made == 2


@pytest.mark.parametrize("error", [RuntimeError("The decoder broke."), KeyboardInterrupt()])
def test_an_error_of_the_decoder_ends_ffmpeg(error: BaseException, tmp_path: Path) -> None:
    def frames() -> Iterator[Frame]:
        yield from noise(12)
        raise error

    with pytest.raises(type(error)) as caught:
        encode(frames(), tmp_path / "clip.mp4")
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_an_ffmpeg_killed_from_outside_is_an_error_that_says_so(tmp_path: Path) -> None:
    def frames() -> Iterator[Frame]:
        for index, frame in enumerate(noise()):
            if index == 6:
                running_ffmpeg().kill()
            yield frame

    with pytest.raises(EncoderKilled, match="killed by signal 9 and said: nothing"):
        encode(frames(), tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []


def test_signals_to_every_process_of_a_service_end_no_video(tmp_path: Path) -> None:
    def frames() -> Iterator[Frame]:
        for index, frame in enumerate(noise()):
            if index == 6:
                for number in STOP_SIGNALS:
                    running_ffmpeg().send_signal(number)
            yield frame

    encode(frames(), tmp_path / "clip.mp4")


def test_an_ffmpeg_killed_after_the_last_frame_is_an_error_too(tmp_path: Path) -> None:
    def frames() -> Iterator[Frame]:
        yield from noise()
        running_ffmpeg().kill()

    with pytest.raises(EncoderKilled, match="killed by signal 9"):
        encode(frames(), tmp_path / "clip.mp4")


def test_a_failing_ffmpeg_is_quoted_though_the_pipe_broke(tmp_path: Path) -> None:
    missing = tmp_path / "no such folder" / "clip.mp4"
    num_made = 0

    def frames() -> Iterator[Frame]:
        nonlocal num_made
        for frame in noise(1000):
            num_made += 1
            yield frame

    with pytest.raises(EncodingFailed, match="No such file or directory") as caught:
        encode(frames(), missing, num_frames=1000)
    assert isinstance(caught.value.__cause__, BrokenPipeError)
    assert num_made < 1000


def test_a_missing_ffmpeg_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "ffmpeg"))
    with pytest.raises(EncodingFailed, match="ffmpeg is not a program that can be run"):
        encode(noise(), tmp_path / "clip.mp4")


def test_a_file_that_only_looks_like_a_program_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ffmpeg"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    with pytest.raises(EncodingFailed, match="Exec format error"):
        encode(noise(), tmp_path / "clip.mp4")


def test_the_caller_may_draw_every_frame_into_one_buffer(tmp_path: Path) -> None:
    def redrawn() -> Iterator[Frame]:
        buffer = np.empty((SIZE, SIZE, 3), np.uint8)
        for frame in noise():
            buffer[:] = frame
            yield buffer

    encode(noise(), tmp_path / "own.mp4")
    encode(redrawn(), tmp_path / "shared.mp4")
    assert (tmp_path / "own.mp4").read_bytes() == (tmp_path / "shared.mp4").read_bytes()


def test_frames_need_not_be_contiguous(tmp_path: Path) -> None:
    encode(noise(), tmp_path / "rows.mp4")
    encode((np.asfortranarray(frame) for frame in noise()), tmp_path / "columns.mp4")
    assert (tmp_path / "rows.mp4").read_bytes() == (tmp_path / "columns.mp4").read_bytes()


DIES_WHILE_FFMPEG_IS_STUCK = """
import os, signal, sys, threading
from pathlib import Path
import test_ffmpeg as encoding

def frames():
    for index, frame in enumerate(encoding.noise()):
        if index == 3:
            ffmpeg = encoding.running_ffmpeg()
            ffmpeg.suspend()
            print(ffmpeg.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        yield frame

encoding.encode(frames(), Path(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
def test_ffmpeg_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    parent = subprocess.run(
        [sys.executable, "-c", DIES_WHILE_FFMPEG_IS_STUCK, str(tmp_path / "clip.mp4")],
        cwd=TESTS / "model",
        env={"PYTHONPATH": f"{ROOT}:{SUPPORT}"},
        stdout=subprocess.PIPE,
        check=False,
    )
    assert parent.returncode == -signal.SIGKILL
    pid = int(parent.stdout)
    try:
        wait_until(lambda: _has_ended(pid))
    finally:
        if not _has_ended(pid):
            psutil.Process(pid).kill()
    (tmp_path / "clip.mp4.part").unlink(missing_ok=True)


def _has_ended(pid: int) -> bool:
    """Whether there is no such process, or one that nobody has reaped yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
