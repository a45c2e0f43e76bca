"""Decoding and encoding take the same memory whatever the length: frames are not collected."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paths import SUPPORT
from stand_ins import stand_in

PROGRAM = SUPPORT / "decode_memory.py"
# As workers on a CPU are started: otherwise glibc's heap grows with what is long freed.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "4194304",
    "MALLOC_TRIM_THRESHOLD_": "8388608",
    "OMP_NUM_THREADS": "1",
}
SPREAD_MIB = 40


@pytest.mark.slow
@pytest.mark.timeout(900)
# In the second, 93 frames of 8 bits alone are 63 MiB.
@pytest.mark.parametrize(("width", "height"), [(320, 176), (640, 352)])
def test_decoding_and_encoding_take_the_same_memory_for_any_length(
    tmp_path: Path, width: int, height: int
) -> None:
    checkpoint = stand_in(width=width, height=height)
    short, long = (_peak_mib(checkpoint, n, tmp_path) for n in (9, 93))
    assert abs(long - short) < SPREAD_MIB


def _peak_mib(checkpoint: Path, num_frames: int, folder: Path) -> float:
    arguments = map(str, (PROGRAM, checkpoint, num_frames, folder / f"{num_frames}.mp4"))
    command = [sys.executable, *arguments]
    run = subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    return float(json.loads(run.stdout)["python"])
