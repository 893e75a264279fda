"""How much the system grants this process."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path
from typing import NamedTuple

from cleftcli.checks.finding import Finding, note, ok, problem
from cleftcli.machine import built_in_memory, memory, memory_limit

SHARED = Path("/dev/shm")
ENOUGH_MEMORY = 4e9  # bytes: `predict` with the default checkpoint and blocks takes about 1.5
ENOUGH_SHARED = 1e9  # bytes: batches on their way from a worker of the default training take 0.4


class Limit(NamedTuple):
    """A limit of the system, how much of it is enough, and how a shell raises it."""

    number: int
    enough: int
    raised: str


def free_memory() -> Finding:
    """What this process may still take, and who limits it."""
    free, limit = memory(), memory_limit()
    fact = f"{free / 1e9:.1f} GB free of {built_in_memory() / 1e9:.1f}"
    fact += "" if limit is None else f"; the control group grants {limit / 1e9:.1f} GB"
    if free >= ENOUGH_MEMORY:
        return ok(fact, free_bytes=free)
    advice = "smaller blocks take less (--block); ask the batch system or the container for more"
    return note(fact, advice, free_bytes=free)


def shared_memory() -> Finding:
    """Room for batches that the workers of `train` hand over; too little ends them (SIGBUS)."""
    if not SHARED.is_dir():
        return note(f"there is no {SHARED}", "train with workers = 0 in [training]", free_bytes=0)
    about = os.statvfs(SHARED)
    free = about.f_bavail * about.f_frsize
    fact = f"{free / 1e9:.2f} GB free in {SHARED}"
    if free >= ENOUGH_SHARED:
        return ok(fact, free_bytes=free)
    advice = "docker run --shm-size 2g, or train with workers = 0 in [training]"
    return note(fact, advice, free_bytes=free)


def limits() -> Finding:
    """The limits that the shell sets its processes (ulimit)."""
    granted = {name: resource.getrlimit(limit.number)[0] for name, limit in LIMITS.items()}
    low = [name for name, n in granted.items() if 0 <= n < LIMITS[name].enough]  # -1: unlimited
    fact = ", ".join(f"{name} {n if n >= 0 else 'unlimited'}" for name, n in granted.items())
    if not low:
        return ok(fact, **granted)
    raised = "; ".join(LIMITS[name].raised for name in low)
    return note(f"low: {', '.join(low)} ({fact})", raised, **granted)


def loopback() -> Finding:
    """Processes of this machine can talk: that is how dask hands out blocks."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5) as client,
        ):
            port = client.getpeername()[1]
    except OSError as error:
        return problem(
            f"127.0.0.1 does not answer: {error}",
            "allow loopback in this container, sandbox or firewall",
        )
    return ok(f"127.0.0.1 answers (port {port} was tried)")


LIMITS = {
    "open_files": Limit(resource.RLIMIT_NOFILE, 256, "ulimit -n 4096"),
    "processes": Limit(resource.RLIMIT_NPROC, 128, "ulimit -u 4096"),
    "file_bytes": Limit(resource.RLIMIT_FSIZE, 2**32, "ulimit -f unlimited"),
    "address_bytes": Limit(resource.RLIMIT_AS, 2**34, "ulimit -v unlimited"),
    "core_bytes": Limit(resource.RLIMIT_CORE, 0, "ulimit -c 0"),
}
