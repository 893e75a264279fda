"""Who does the blocks: processes of this machine, or those of a dask cluster.

dask runs whatever code reaches its ports, so local workers listen on loopback only.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

import dask
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster, get_worker

from cleftcli.errors import InputError, ResourceError, UsageError
from cleftcli.toml_file import read_toml

log = logging.getLogger(__name__)
_asking = Lock()
Result = TypeVar("Result")

LOOPBACK = "127.0.0.1:0"
SECONDS_TO_JOIN = 60.0  # for the first worker of a scheduler that somebody else started
QUEUES = {
    "slurm": "SLURMCluster",
    "lsf": "LSFCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "oar": "OARCluster",
    "htcondor": "HTCondorCluster",
    "local": "LocalCluster",  # jobs as processes of this machine: to try a file without a queue
}


@dataclass(frozen=True)
class Workers:
    """Who does the blocks; without a scheduler or cluster, `count` workers on this machine.

    None is one, or one for each GPU. A single worker without GPUs lives in this process. `gpus`
    names the device of each worker (CUDA_VISIBLE_DEVICES), each a process of its own.
    """

    count: int | None = None
    gpus: tuple[str, ...] = ()
    scheduler: str | None = None  # address, or scheduler file
    cluster: Path | None = None  # TOML for dask-jobqueue
    part: tuple[int, int] | None = None  # do every n-th block from the i-th on: (i, n), i from 1
    patience: float | None = None  # seconds without a finished block before it is given up

    def __post_init__(self) -> None:
        if self.scheduler and self.cluster:
            raise UsageError("--scheduler and --cluster exclude each other")
        if self.count is not None and self.count < 1:
            raise UsageError(f"--workers {self.count}: one at least")
        if self.part and not 1 <= self.part[0] <= self.part[1]:
            raise UsageError("--part {}/{}: i/n with 1 <= i <= n".format(*self.part))

    @property
    def processes(self) -> int:
        """How many workers this machine has."""
        return len(self.gpus) or self.count or 1

    @property
    def alone(self) -> bool:
        """Whether the only worker is this process."""
        return not self.elsewhere and not self.gpus and self.processes == 1

    @property
    def elsewhere(self) -> bool:
        """Whether workers may run on other machines than this process."""
        return bool(self.scheduler or self.cluster)

    def takes(self, index: int) -> bool:
        """Whether a block falls into this part."""
        return self.part is None or index % self.part[1] == self.part[0] - 1


HERE = Workers()  # one, in this process


@contextmanager
def connected(workers: Workers, threads: int) -> Iterator[Client]:
    """A client whose workers have joined; local ones run `threads` tasks at a time each.

    Raises:
        InputError: the cluster file cannot be used.
        ResourceError: no scheduler answers, no worker joins it, or none starts here.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    dask.config.set({"distributed.worker.profile.enabled": False})  # it looks at threads for ever
    if workers.scheduler:
        with _joined(workers.scheduler) as client:
            yield client
        return
    local = partial(_local, workers, threads)
    with (
        _queued(workers.cluster) if workers.cluster else started(local) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        if workers.cluster:
            log.info("waiting for the first of the jobs to start")
            client.wait_for_workers(1)
        yield client


def _joined(scheduler: str) -> Client:
    """A client of a scheduler that runs already."""
    address = _address_in(Path(scheduler)) if Path(scheduler).exists() else scheduler
    if "://" not in address:
        raise InputError(f"{scheduler}: neither a scheduler file nor an address tcp://HOST:PORT")
    try:
        client = Client(address, timeout=SECONDS_TO_JOIN, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ResourceError(f"{scheduler}: no scheduler answers: {error}") from error
    try:
        client.wait_for_workers(1, timeout=SECONDS_TO_JOIN)
    except TimeoutError:
        client.close()
        raise ResourceError(
            f"{scheduler}: no worker has joined in {SECONDS_TO_JOIN:.0f} s"
        ) from None
    return client


def _address_in(file: Path) -> str:
    """The address in a scheduler file; dask would wait for minutes on one that has none."""
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["address"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{file}: not a dask scheduler file, JSON with an address; "
            "restart the scheduler, which writes one"
        ) from error


def started(local: Callable[[], SpecCluster]) -> SpecCluster:
    """Workers of this machine, tried twice: dask at times fails to start them and hides why.

    Raises:
        ResourceError: they did not start.
    """
    try:
        return local()
    except (AssertionError, OSError, RuntimeError) as error:
        log.info("dask's workers did not start (%r); once more", error)
    try:
        return local()
    except (AssertionError, OSError, RuntimeError) as error:
        raise ResourceError(f"dask's workers do not start here: {error}") from error


def _local(workers: Workers, threads: int) -> SpecCluster:
    """Workers on this machine, reachable from nowhere else."""
    if workers.alone:
        return LocalCluster(
            n_workers=1,
            threads_per_worker=threads,
            processes=False,
            # without an address the HTTP servers would take port 8787 on every interface
            dashboard_address=LOOPBACK,
            worker_dashboard_address=LOOPBACK,
            scheduler_kwargs={"dashboard": False},
            memory_limit=0,
            protocol="tcp",
            host="127.0.0.1",
        )
    here = {"host": "127.0.0.1", "dashboard_address": LOOPBACK}
    seen = workers.gpus or (os.environ.get("CUDA_VISIBLE_DEVICES"),) * workers.processes
    return SpecCluster(
        scheduler={"cls": Scheduler, "options": {**here, "dashboard": False}},
        workers={
            n: {
                "cls": Nanny,
                "options": {
                    **here,
                    "nthreads": threads,
                    "memory_limit": 0,
                    "silence_logs": logging.CRITICAL,
                    "env": {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu},
                },
            }
            for n, gpu in enumerate(seen)
        },
    )


def _queued(path: Path) -> Any:
    """A cluster of batch jobs, as a TOML file describes it for dask-jobqueue."""
    table = read_toml(path)
    try:
        queue, jobs = table.pop("queue"), table.pop("jobs")
        name = QUEUES[queue]
    except KeyError as error:
        raise InputError(
            f"{path}: {error}; it takes queue ({', '.join(QUEUES)}), jobs (how many), and options "
            "of that class of dask-jobqueue"
        ) from error
    try:
        made_by = getattr(importlib.import_module(f"dask_jobqueue.{queue}"), name)
    except ImportError:
        raise ResourceError(
            "dask-jobqueue is not installed: pip install 'cleft[cluster]'"
        ) from None
    try:
        cluster = made_by(**table)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error
    cluster.scale(jobs=jobs)
    return cluster


def threads_here() -> int:
    """How many threads the worker that calls this was given."""
    return int(get_worker().state.nthreads)


def in_one_thread(work: Callable[[], Result]) -> Result:
    """What `work` returns, done by the one thread that all threads of this process share for it.

    OpenMP keeps a team for each thread that ever computed. Where teams have more threads than there
    are cores they hardly wait for each other before they sleep: a network takes a tenth longer.
    """
    answer: Future[Result] = Future()
    with _asking:  # the first ones may come together
        _to_do().put((answer, work))
    return answer.result()


@functools.cache
def _to_do() -> SimpleQueue[tuple[Future[Any], Callable[[], Any]]]:
    """Work for that thread; it does not keep the process from ending, whatever it is at."""
    to_do: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
    Thread(target=_work_off, args=(to_do,), daemon=True).start()
    return to_do


def _work_off(to_do: SimpleQueue[tuple[Future[Any], Callable[[], Any]]]) -> None:
    while True:
        answer, work = to_do.get()
        try:
            answer.set_result(work())
        except BaseException as error:
            answer.set_exception(error)
        del answer, work  # they hold arrays until the next comes


def in_a_process(work: Callable[[], Result]) -> Result:
    """What `work` returns, done by a process of its own: what it takes of a GPU ends with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work).result()
