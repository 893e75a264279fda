"""Batches made ahead of the training loop, by processes of their own."""

from __future__ import annotations

import signal
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cleftcli.errors import CleftError
from cleftcli.interrupt import STOPPING, deaf_children

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class _Told(Dataset[Any]):
    """Batches, or the error of ours in place of one: torch would make a traceback of it."""

    batches: Dataset[Batch]

    def __getitem__(self, index: int) -> Any:
        try:
            return self.batches[index]
        except CleftError as error:
            return error


def made_ahead(
    batches: Dataset[Batch], indices: Sequence[int], workers: int
) -> Generator[Batch, None, None]:
    """The batches with these numbers, in order, made ahead by `workers` processes.

    To close it ends them, within the time of a batch. One that dies before raises here, instead of
    leaving the training loop waiting.

    Raises:
        InputError: a volume cannot be read.
    """
    loader = DataLoader(
        _Told(batches),
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        # tensorstore must not be forked
        multiprocessing_context="forkserver" if workers else None,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_ignore_signals,
    )
    with deaf_children():
        made: Any = iter(loader)
    try:
        for found in made:
            if isinstance(found, CleftError):
                raise found
            yield found
    finally:
        if workers:  # an error of one of them keeps the iterator, which would end them, alive
            made._shutdown_workers()


def _ignore_signals(_worker: int) -> None:
    """The training loop decides when its workers end, also where others had begun to start them."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
