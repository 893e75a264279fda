"""Memory that is given back is there for the next array."""

import ctypes
import subprocess
import sys

import pytest

from cleftcli import heap

ARRAYS = """
import resource, sys
import numpy as np
from cleftcli import heap
if sys.argv[1] == "keep":
    heap.keep()
np.ones(40_000_000, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(40_000_000, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(how):
    """How many new pages a process takes for twenty arrays, one after the other, behind a first."""
    command = [sys.executable, "-c", ARRAYS, how]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
def test_large_arrays_do_not_come_new_from_the_system():
    """Pages are not asked for again; otherwise each array has its own."""
    assert pages("keep") < pages("as it is") / 10


@pytest.mark.parametrize(
    ("most", "then"),
    [
        (1 << 30, {-8: 1, -3: 1 << 30, -1: 1 << 30}),
        (1 << 25, {-8: 1, -3: 1 << 25, -1: 1 << 30}),  # an older glibc
        (0, {-8: 1}),  # the trim threshold is left alone
    ],
)
def test_a_malloc_that_takes_less(monkeypatch, most, then):
    """What an older one refuses is asked for again, smaller."""
    now = {}

    def mallopt(parameter, value):
        taken = parameter != heap._M_MMAP_THRESHOLD or value <= most
        now.update({parameter: value} if taken else {})
        return int(taken)

    monkeypatch.setattr(heap, "_mallopt", mallopt)
    heap.keep.__wrapped__()

    assert now == then
