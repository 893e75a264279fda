"""Blocks through dask: a bounded window of tasks, so a million blocks cost no memory.

Processes must be picklable and idempotent: after a crash a block is simply done again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from distributed import Client, Future, LocalCluster, as_completed

from cleftcli.errors import CleftError, ResourceError
from cleftcli.geometry import Block
from cleftcli.interrupt import stoppable

RETRIES = 2
LOOPBACK = "127.0.0.1:0"
WINDOW = 2  # tasks in flight for each worker: one computing, one waiting


class Process(Protocol):
    """What to do with a block: a frozen dataclass of addresses and numbers."""

    def __call__(self, block: Block) -> dict[str, Any]:
        """Write the block; what came of it, for the ledger."""


@dataclass(frozen=True)
class Failure:
    """A block that could not be done."""

    block: Block
    error: BaseException


def run(
    process: Process,
    blocks: Iterable[Block],
    *,
    workers: int,
    finished: Callable[[Block, dict[str, Any]], None],
) -> list[Failure]:
    """Do every block; returns those that failed after retries, the others being done.

    Args:
        process: called in a worker, once a block or more often.
        blocks: drawn as workers become free.
        workers: processes; one works in a thread of this process.
        finished: called here, in order of completion.

    Raises:
        SystemExit: 130 or 143 after a signal, once the blocks in flight are finished.
    """
    remaining = iter(blocks)
    failures: list[Failure] = []
    with _client(workers) as client, stoppable() as stop:
        flying = as_completed()
        owners: dict[Future, Block] = {}

        def launch() -> None:
            block = None if stop.signal else next(remaining, None)
            if block is not None:
                future = client.submit(_attempt, process, block, pure=False, retries=RETRIES)
                owners[future] = block
                flying.add(future)

        for _ in range(WINDOW * workers):
            launch()
        for future in flying:
            block = owners.pop(future)
            result = future.exception() if future.status == "error" else future.result()
            if isinstance(result, BaseException):
                failures.append(Failure(block, result))
            else:
                finished(block, result)
            future.release()
            launch()
        stop.exit()
    return failures


def _attempt(process: Process, block: Block) -> dict[str, Any] | CleftError:
    """What came of a block; an error that a second try would meet again is a result too."""
    try:
        return process(block)
    except ResourceError:
        raise
    except CleftError as error:
        return error


def _client(workers: int) -> Client:
    """Workers on this machine, reachable from nowhere else; one lives in this process."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=workers > 1,
        # without an address the HTTP servers would take port 8787 on every interface
        dashboard_address=LOOPBACK,
        worker_dashboard_address=LOOPBACK,
        scheduler_kwargs={"dashboard": False},
        memory_limit=0,
        protocol="tcp",
        host="127.0.0.1",
    )
    return _OwningClient(cluster)


class _OwningClient(Client):
    """A client that takes its cluster down with it."""

    def __exit__(self, *error: Any) -> Any:
        cluster = self.cluster
        result = super().__exit__(*error)
        cluster.close()
        return result
