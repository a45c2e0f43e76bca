"""The process that decodes one picture: bytes on stdin, pixels or a refusal on stdout.

It imports Pillow and neither torch nor the server, because it starts for every picture. What it
writes is told apart by its exit code, and is data that its parent checks: never pickle.
"""

import dataclasses
import json
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.image import prepare
from server.workers.parent_death import die_with

REFUSED = 3
"""The exit code beside a refusal; 1 and 2 are what Python itself ends with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeStart:
    """What the process is told on its command line, as JSON.

    `parent` is the process that has to be alive. `memory_bytes` is the address space that it may
    have beyond what the interpreter and Pillow take, `cpu_s` the seconds of processor time.
    """

    parent: int
    width: int
    height: int
    field: str
    memory_bytes: int
    cpu_s: int

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def confine(start: DecodeStart) -> None:
    """Give up whatever decoding one picture does not need. To be called before reading it."""
    die_with(start.parent)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * resource.getpagesize() + start.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    # The signal at the first limit tells that the picture is at fault: at the second it is SIGKILL,
    # which others send, too.
    resource.setrlimit(resource.RLIMIT_CPU, (start.cpu_s, start.cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(values: dict[str, Any]) -> None:
    """A picture process, from its first line to its exit code."""
    start = DecodeStart(**values)
    confine(start)
    try:
        pixels = prepare(sys.stdin.buffer.read(), start.width, start.height, field=start.field)
    except InputError as error:
        refusal = {"code": error.code, "message": str(error), "context": error.context}
        _end(json.dumps(refusal).encode(), REFUSED)
    else:
        _end(pixels.rgb, 0)


def _end(output: bytes, code: int) -> None:
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    os._exit(code)  # the pixels are out: nothing is left that is worth tidying up
