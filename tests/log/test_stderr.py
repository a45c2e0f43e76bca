"""Writing to a stderr that takes nothing, by programs that must go on all the same."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

from full_pipes import FullPipe
from paths import ROOT

UNBLOCKED = """
    import sys
    from server.log.stderr import unblocked_stderr

    with unblocked_stderr():
        for number in range(10_000):
            print("line", number, file=sys.stderr)
        print("written", flush=True)
        sys.stdin.read()
"""


def start(program: str, stderr: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=ROOT,
        text=True,
    )


def test_a_reader_that_stopped_holds_nothing_up_and_is_told_how_much_is_missing() -> None:
    after = 'print("after", file=sys.stderr, flush=True)'
    with FullPipe() as pipe, start(f"{UNBLOCKED}    {after}", pipe.sink) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "written\n"
        text = pipe.read_until("lines were left out")
        assert program.stdin is not None
        program.stdin.close()
        pipe.close_sink()
        text += pipe.read_rest()
        assert program.wait(30) == 0
    missing = sum(map(int, re.findall(r"^(\d+) lines were left out", text, re.MULTILINE)))
    assert missing > 1000
    assert text.count("line ") + missing == 10_000
    assert text.endswith("after\n")


def test_a_full_disk_fails_nothing() -> None:
    with Path("/dev/full").open("w") as full, start(UNBLOCKED, full.fileno()) as ran:
        out, _ = ran.communicate(timeout=30)
    assert (ran.returncode, out) == (0, "written\n")


def test_an_unfailing_stream_leaves_out_what_cannot_be_written() -> None:
    program = """
        import sys, traceback
        from server.log.stderr import unfailing

        sys.stderr = unfailing(sys.stderr)
        print("line", file=sys.stderr)
        try:
            raise RuntimeError
        except RuntimeError:
            traceback.print_exc()
        print("written", sys.stderr.isatty())
    """
    with Path("/dev/full").open("w") as full, start(program, full.fileno()) as ran:
        out, _ = ran.communicate(timeout=30)
    assert (ran.returncode, out) == (0, "written False\n")
    with start(program, subprocess.PIPE) as ran:
        _, err = ran.communicate(timeout=30)
    assert err.startswith("line\nTraceback")
