"""Training in several processes, one for each GPU, as `torchrun` starts them.

Each process computes its share of every batch; gradients are averaged, so all stay the same.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(hours=6)  # the others wait while the first one validates


@dataclass(frozen=True)
class Replica:
    """One of `count` processes; number 0 writes and speaks, the others tell errors only."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # on this machine
    local_count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """This process's own GPU where `auto` or `cuda` would give all the same one."""
        shared = name in ("auto", "cuda") and torch.cuda.is_available() and self.count > 1
        return f"cuda:{self.local_rank}" if shared else name

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any of them; all ask at the same step."""
        if self.count == 1:
            return flag
        flags = torch.tensor(int(flag))
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return bool(flags)

    def share(self, network: nn.Module) -> nn.Module:
        """The network as this process calls it in training: its gradients are everyone's mean."""
        return DistributedDataParallel(network) if self.count > 1 else network


@contextmanager
def joined() -> Iterator[Replica]:
    """This process's place among those that `torchrun` has started; alone without it."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Replica()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    replica = Replica(distributed.get_rank(), count, *here)
    if not replica.first:
        logging.getLogger("cleftcli").setLevel(logging.ERROR)
    try:
        yield replica
    finally:
        distributed.destroy_process_group()
