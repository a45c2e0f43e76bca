"""The process that decodes one picture or video: a file as stdin, pixels or a refusal on stdout.

Behind the pixels comes a JSON list of what is to be told of the file.

It imports Pillow and neither torch nor the server, because it starts for every file. What it
writes is told apart by its exit code, and is data that its parent checks: never pickle.
"""

import ctypes
import json
import os
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.errors import InputError, PipelineError
from pipeline.spec import Pixels

_PR_SET_NO_NEW_PRIVS = 38

REFUSED = 3
"""The exit code beside a refusal; 1 and 2 are what Python itself ends with."""
UNUSABLE = 4
"""The exit code beside the sentence of another error than the file's: ffmpeg is missing."""


def confine(memory_bytes: int, cpu_s: int) -> None:
    """Give up what decoding one file does not need. To be called before reading it.

    `memory_bytes` is the address space that it may have beyond what the interpreter takes, and
    ffmpeg in all; `cpu_s` are the seconds of processor time.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    # The signal at the first limit tells that the file is at fault: at the second it is SIGKILL,
    # which others send, too.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # No program that it starts may have more rights than it has: setuid does nothing from here on.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) failed")


def main(
    *,
    name: str,
    width: int,
    height: int,
    field: str,
    fps: int | None,
    memory_bytes: int,
    cpu_s: int,
) -> None:
    """The process, from its first line to its exit code. `name` is the medium's."""
    confine(memory_bytes, cpu_s)
    told: list[str] = []
    try:
        pictures = _prepare(name, width, height, field, told.append, fps, cpu_s)
    except InputError as error:
        refusal = {"code": error.code, "message": str(error), "context": error.context}
        _end(json.dumps(refusal).encode(), REFUSED)
    except PipelineError as error:
        _end(str(error).encode(), UNUSABLE)
    else:
        rgb = b"".join(picture.rgb for picture in pictures)
        _end(rgb + json.dumps(told).encode(), 0)


def _prepare(
    name: str,
    width: int,
    height: int,
    field: str,
    tell: Callable[[str], object],
    fps: int | None,
    cpu_s: int,
) -> Sequence[Pixels]:
    # Imported when it is wanted: a picture needs nothing of what a video does.
    if name == "video":
        from pipeline import clip

        file = sys.stdin.buffer
        return clip.prepare(file, width, height, field=field, tell=tell, fps=fps, cpu_s=cpu_s)
    from pipeline import image

    return [image.prepare(sys.stdin.buffer.read(), width, height, field=field, tell=tell)]


def _end(output: bytes, code: int) -> None:
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    os._exit(code)  # the pixels are out: nothing is left that is worth tidying up
