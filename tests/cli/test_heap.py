"""What becomes of the memory of large requests that are over."""

import ctypes
import subprocess
import sys
import textwrap

import pytest

MIB = 1024 * 1024
PROGRAM = """
    import sys
    import psutil
    from server.serve import keep_heap_small

    if sys.argv[1] == "small":
        keep_heap_small()
    before = psutil.Process().memory_info().rss
    bytes(20 * 1024 * 1024)
    large, small = [], []
    for _ in range(100):
        large.append(b"x" * (2 * 1024 * 1024))
        # Beyond what Python keeps in its arenas, and what fits into the gaps that imports left.
        small.append(bytearray(20_000))
    large.clear()
    print(psutil.Process().memory_info().rss - before)
"""


def left_in_memory(how: str) -> int:
    """Bytes that a process has more than before, once it let go of 200 MiB in a hundred pieces."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="There is no glibc here.")
def test_large_blocks_go_back_to_the_system() -> None:
    assert left_in_memory("small") < 20 * MIB
    assert left_in_memory("as it is") > 150 * MIB
