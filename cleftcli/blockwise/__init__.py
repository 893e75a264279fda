"""Run a function over blocks: dask schedules, retries and survives its workers."""

from cleftcli.blockwise.ledger import Ledger, Standing, is_held, ledgers, refuse_if_held, standing
from cleftcli.blockwise.schedule import Process, run
from cleftcli.blockwise.workers import HERE, Workers, in_a_process, in_one_thread, threads_here

__all__ = [
    "HERE",
    "Ledger",
    "Process",
    "Standing",
    "Workers",
    "in_a_process",
    "in_one_thread",
    "is_held",
    "ledgers",
    "refuse_if_held",
    "run",
    "standing",
    "threads_here",
]
