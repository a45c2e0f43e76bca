"""Have large blocks of memory go back to the system when they are freed.

After one large block was freed, glibc takes the next ones from its heap, which shrinks only from
its end: a small block behind a picture keeps the picture's room. A server that has read a few large
requests would never be small again.
"""

import ctypes

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 1_000_000


def keep_heap_small() -> None:
    """Give blocks beyond a megabyte memory of their own from now on; nothing without glibc."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
