"""Run a function over blocks: dask schedules, retries and survives its workers."""

from cleftcli.blockwise.ledger import Ledger, refuse_if_held
from cleftcli.blockwise.run import Failure, Process, run

__all__ = ["Failure", "Ledger", "Process", "refuse_if_held", "run"]
