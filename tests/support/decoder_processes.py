"""Processes of pictures that misbehave: the bytes say how, and `until FILE` if only once.

`MediaDecoder` starts them as it starts the real one.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from server.inputs.decoder_process import REFUSED, confine


def main(*, width: int, height: int, memory_bytes: int, cpu_s: int, **_others: Any) -> None:
    confine(memory_bytes, cpu_s)
    fault, _, path = sys.stdin.buffer.readline().decode().strip().partition(" until ")
    if path and Path(path).exists():
        os.write(1, bytes(width * height * 3) + b"[]")
        os._exit(0)
    if path:
        Path(path).touch()
    _FAULTS[fault]()


def _refuse(text: bytes) -> None:
    os.write(1, text)
    os._exit(REFUSED)


def _flood() -> None:
    while True:
        os.write(1, bytes(65536))


def _spin() -> None:
    while True:
        pass


def _hoard() -> None:
    hoard = bytearray(64 * 1024**2)
    sys.exit(f"There was room for {len(hoard)} bytes.")


def _tell_environment() -> None:
    """Refuse the picture with what the process has of its parent."""
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    told = {"environment": dict(os.environ), "no_new_privs": status["NoNewPrivs"]}
    refusal = {"code": "image_load_error", "message": json.dumps(told), "context": {}}
    _refuse(json.dumps(refusal).encode())


def _tell(text: bytes) -> None:
    os.write(1, bytes(96 * 64 * 3) + text)
    os._exit(0)


_FAULTS: dict[str, Callable[[], object]] = {
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(1),
    "nothing": lambda: os._exit(0),
    "flood": _flood,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "spin": _spin,
    "hoard": _hoard,
    "tell": _tell_environment,
    "sleep": lambda: time.sleep(3600),
    "told no list": lambda: _tell(b"{}"),
    "told no text": lambda: _tell(b"[1]"),
    "no json": lambda: _refuse(b"\xff"),
    "no object": lambda: _refuse(b"[]"),
    "other": lambda: _refuse(b'{"code": "rm", "message": "", "context": {}}'),
    "no sentence": lambda: _refuse(b'{"code": "image_too_large", "message": 1, "context": {}}'),
}
