"""Blocks through dask: a bounded window of tasks, so a million blocks cost no memory.

Processes must be picklable and idempotent: after a crash a block is simply done again.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, ClassVar, Protocol

from distributed import Client, Future, KilledWorker, get_worker

from cleftcli import __version__
from cleftcli.blockwise.workers import Workers, connected
from cleftcli.errors import CleftError, DeviceLost, IncompleteError, InputError, ResourceError
from cleftcli.geometry import Block
from cleftcli.interrupt import Stop, stoppable

log = logging.getLogger(__name__)

PAUSES = (0.2, 1.0)  # seconds before a block that raised is tried again
PULSE = 5.0  # seconds between looks at workers while no block is finished
GRACE = 20.0  # seconds for blocks in flight after a signal: batch systems kill after 30
TIMES_SLOWEST, LEAST_PATIENCE = 20, 600.0  # when nothing comes, against the slowest block so far
STACK_LINES = 4
SCHEDULER_LOST = "the connection to the scheduler is lost; the same command continues"


class Process(Protocol):
    """What to do with a block: a frozen dataclass of addresses and numbers.

    A worker holds `at_once` blocks, so that one is read and one written while one is computed.
    """

    at_once: ClassVar[int] = 1

    def __call__(self, block: Block) -> dict[str, Any]:
        """Write the block; what came of it, for the ledger."""


def run(
    process: Process,
    blocks: Iterable[Block],
    *,
    workers: Workers,
    finished: Callable[[Block, dict[str, Any]], None],
    failed: Callable[[Block, BaseException], None],
) -> None:
    """Do every block; those that fail after retries are told of, the others are done.

    A block whose worker dies again and again is tried once more alone, so that it takes no other
    with it.

    Args:
        process: called in a worker, once a block or more often.
        blocks: drawn as workers become free.
        workers: who does them.
        finished: called here, in order of completion, with what `process` returned and `seconds`.
        failed: called here.

    Raises:
        IncompleteError: no block was finished for longer than the workers' patience.
        InputError: a worker runs another version of cleft.
        ResourceError: disk, memory or device do not suffice; blocks in flight were finished.
        KeyboardInterrupt: after SIGINT, once the blocks in flight are finished, or GRACE is over.
        SystemExit: 143 after SIGTERM, likewise.
    """
    with connected(workers, process.at_once) as client, stoppable() as stop:
        if not workers.alone:
            _check(client)
        flight = _Flight(client, process, stop, finished, failed, workers.patience)
        flight.complete(blocks, ahead=process.at_once + 1)
        for block in flight.suspects:
            flight.complete([block], ahead=0)
        flight.end()


@dataclass
class _Flight:
    """Tasks that dask holds, and what becomes of them."""

    client: Client
    process: Process
    stop: Stop
    finished: Callable[[Block, dict[str, Any]], None]
    failed: Callable[[Block, BaseException], None]
    patience: float | None
    owners: dict[Future, Block] = field(default_factory=dict)
    arrived: SimpleQueue[Future] = field(default_factory=SimpleQueue)
    suspects: list[Block] = field(default_factory=list)
    lack: ResourceError | None = None
    slowest: float = 0.0
    workers: int = 0
    counted: float = -PULSE

    def complete(self, blocks: Iterable[Block], *, ahead: int) -> None:
        """Do blocks with `ahead` tasks for each worker, or one in all where that is 0."""
        remaining = iter(blocks)
        while True:
            most = max(ahead * self._count_workers(), 1)
            while len(self.owners) < most and not self.stop.signal and not self.lack:
                block = next(remaining, None)
                if block is None:
                    break
                future = self.client.submit(_attempt, self.process, block, pure=False)
                self.owners[future] = block
                future.add_done_callback(self.arrived.put)
            if not self.owners:
                return
            self._land(self._next(), alone=not ahead)

    def end(self) -> None:
        """Leave with the error that the flight has met."""
        self.stop.exit()
        if self.lack:
            raise self.lack

    def _count_workers(self) -> int:
        """How many there are; asked now and then, for they may come and go."""
        now = time.monotonic()
        if now - self.counted >= PULSE:
            try:
                self.workers, self.counted = len(self.client.nthreads()), now
            except OSError as error:
                raise IncompleteError(SCHEDULER_LOST) from error
        return self.workers

    def _next(self) -> Future:
        """The next task that ends.

        Raises:
            IncompleteError: none does, or the scheduler is gone.
        """
        begun = time.monotonic()
        while True:
            try:
                return self.arrived.get(timeout=PULSE if self.stop.signal is None else 1.0)
            except Empty:
                waited = time.monotonic() - begun
                self._count_workers()
            if self.stop.signal is not None and time.monotonic() - self.stop.asked > GRACE:
                log.warning(
                    "%d blocks in flight are left; they will be done again", len(self.owners)
                )
                self.stop.leave()
            most = self.patience or max(LEAST_PATIENCE, TIMES_SLOWEST * self.slowest)
            if waited > most and (self.patience or self.slowest or not self.workers):
                raise IncompleteError(f"no block was finished for {waited:.0f} s; {self._doing()}")

    def _land(self, future: Future, *, alone: bool) -> None:
        """Hand on what came of a block.

        Raises:
            IncompleteError: the scheduler is gone.
        """
        block = self.owners.pop(future)
        if future.status in ("cancelled", "lost"):
            raise IncompleteError(SCHEDULER_LOST)
        result = future.exception() if future.status == "error" else future.result()
        future.release()
        if isinstance(result, KilledWorker) and not alone:
            self.suspects.append(block)
        elif isinstance(result, KilledWorker):
            deaths = "its worker died whenever it came to this block, also when nothing else ran"
            self.failed(block, IncompleteError(deaths))
        elif isinstance(result, ResourceError):
            self.lack = self.lack or result
        elif isinstance(result, BaseException):
            self.failed(block, result)
        else:
            self.slowest = max(self.slowest, result["seconds"])
            self.finished(block, result)

    def _doing(self) -> str:
        """What the workers are at, for a person who wonders why nothing comes."""
        blocks = ", ".join(str(b.write) for b in list(self.owners.values())[:3])
        found = [
            f"{len(self.client.nthreads())} workers; {len(self.owners)} blocks in flight: {blocks}"
        ]
        stacks = self.client.call_stack() or {}
        for tasks in list(stacks.values())[:1]:
            found += [line.strip() for frames in tasks.values() for line in frames[-STACK_LINES:]]
        return "\n".join([*found, "The same command continues"])


def _attempt(process: Process, block: Block) -> dict[str, Any] | CleftError:
    """What came of a block after a few tries; an error of ours is a result too."""
    begun = time.monotonic()
    for pause in PAUSES:
        try:
            return _timed(process, block, begun)
        except ResourceError as error:
            return _without_device(error)
        except Exception:
            time.sleep(pause)
    try:
        return _timed(process, block, begun)
    except CleftError as error:
        return _without_device(error)


def _timed(process: Process, block: Block, begun: float) -> dict[str, Any]:
    found = process(block)
    return {"seconds": round(time.monotonic() - begun, 3), **found}


def _without_device(error: CleftError) -> CleftError:
    """The error; where the device is lost for a worker process, another one takes its place."""
    if isinstance(error, DeviceLost) and get_worker().nanny is not None:
        os._exit(1)
    return error


def _check(client: Client) -> None:
    """Refuse workers that would do blocks otherwise.

    Raises:
        InputError: another version of cleft, or none.
    """
    for worker, found in client.run(_version, on_error="return").items():
        if found != __version__:
            raise InputError(
                f"worker {worker} runs cleft {found}, this is {__version__}: install the same"
            )


def _version() -> str:
    return __version__
