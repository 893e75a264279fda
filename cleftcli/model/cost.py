"""What a network costs: parameters, operations, time and memory for one tile."""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cleftcli.geometry import Zyx
from cleftcli.model import build
from cleftcli.model.device import autocast, tiles_at_once, use_cpu
from cleftcli.model.inference import fold_batch_norms
from cleftcli.model.queries import learned_queries

REPEATS = 3
PATIENCE_S = 10.0  # once the runs took this long together, the last of them has begun


class Size(NamedTuple):
    """Parameters, of those learned queries, and operations in GFLOP for one tile.

    A multiplication and an addition are two operations; only products of matrices, convolutions
    and attention are counted.
    """

    parameters: int
    queries: int
    gflop: float


class Cost(NamedTuple):
    """Wall time of one tile in seconds, and the memory at the height in MB beside the weights.

    Tiles are run as many at once as prediction does.

    Memory is None where the system does not tell.
    """

    seconds: float
    memory_mb: float | None


class Asked(NamedTuple):
    """The network to look at: the arguments of `build`."""

    name: str
    out_channels: int
    input_shape: Zyx
    options: Mapping[str, Any]

    def build(self) -> nn.Module:
        """The network, in evaluation mode."""
        found = build(
            self.name,
            out_channels=self.out_channels,
            input_shape=self.input_shape,
            options=self.options,
        )
        return found.eval()


def size(asked: Asked) -> Size:
    """Count without computing: neither weights nor activations are allocated."""
    with torch.device("meta"):
        network = asked.build()
        tile = torch.empty(1, 1, *asked.input_shape)
    parameters = sum(p.numel() for p in network.parameters())
    with FlopCounterMode(display=False) as counter:
        network(tile)
    queries = sum(p.numel() for p in learned_queries(network).values())
    return Size(parameters, queries, counter.get_total_flops() / 1e9)


def measure(asked: Asked, device: torch.device, *, precision: str, threads: int) -> Cost:
    """Run tiles with fresh weights, in a process of its own, in the form that predicts."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_measure, asked, device, precision, threads).result()


def _measure(asked: Asked, device: torch.device, precision: str, threads: int) -> Cost:
    use_cpu(threads)
    network: nn.Module = fold_batch_norms(asked.build()).to(
        device,
        memory_format=torch.channels_last_3d,  # type: ignore[call-overload]
    )
    count = tiles_at_once(device)
    tiles = torch.zeros(count, 1, *asked.input_shape, device=device)
    tiles = tiles.contiguous(memory_format=torch.channels_last_3d)
    before = _held(device)
    times: list[float] = []
    with torch.inference_mode(), autocast(device, precision):
        while len(times) <= REPEATS and sum(times) < PATIENCE_S:
            start = time.perf_counter()
            network(tiles)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
    height = _height(device)
    memory = None if before is None or height is None else height - before
    return Cost(statistics.median(times[1:] or times) / count, memory)


def _held(device: torch.device) -> float | None:
    """MB in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 1e6
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget earlier heights
    return _of_process("VmRSS")


def _height(device: torch.device) -> float | None:
    """MB in use at the height."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return _of_process("VmHWM")


def _of_process(what: str) -> float | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = re.search(rf"{what}:\s+(\d+) kB", status.read_text(encoding="ascii"))
    return int(found[1]) * 1024 / 1e6 if found else None
