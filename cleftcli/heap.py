"""How glibc's malloc serves this process; other C libraries stay as they are."""

from __future__ import annotations

import ctypes
import functools

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of mallopt
_LARGE = 1 << 30  # bytes
_LARGEST_OF_OLD = 1 << 25  # what an older glibc takes at most


@functools.cache
def keep() -> None:
    """From now on one heap for all threads, that keeps what they give back.

    Large arrays and tensors would otherwise come new from the system each time, which clears
    their pages: up to a third of the time that a small network takes on a CPU. With a heap for each
    thread, the buffers that tensorstore's threads are done with took 270 MB, at no gain.
    """
    _mallopt(_M_ARENA_MAX, 1)
    kept = _mallopt(_M_MMAP_THRESHOLD, _LARGE) or _mallopt(_M_MMAP_THRESHOLD, _LARGEST_OF_OLD)
    if kept:  # a trim threshold alone would fix the other one where it is lowest
        _mallopt(_M_TRIM_THRESHOLD, _LARGE)


def _mallopt(parameter: int, value: int) -> int:
    """1 where that is so from now on; 0 where it is refused, or there is no such malloc."""
    libc = ctypes.CDLL(None)
    return int(libc.mallopt(parameter, value)) if hasattr(libc, "mallopt") else 0
