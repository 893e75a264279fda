"""How many tiles a GPU has memory for."""

from __future__ import annotations

from dataclasses import replace

import torch

from cleftcli.geometry import Zyx
from cleftcli.model.device import device_errors
from cleftcli.model.inference import Predictor

MOST_TILES = 64  # more of them make no GPU faster
SHARE = 0.8  # of what is free; blocks take some, and what is measured varies


def fitting_batch(predictor: Predictor, tile: Zyx) -> int:
    """How many tiles the GPU of a predictor has memory for: a power of two, at most MOST_TILES.

    Measured with one tile and with two; a power of two, for free memory is never quite the same.

    Raises:
        ResourceError: there is no memory for one tile.
    """
    with device_errors(predictor.device, "one tile"):
        one = _peak(replace(predictor, batch_size=1), tile)
        try:
            two = _peak(replace(predictor, batch_size=2), tile)
        except torch.OutOfMemoryError:
            return 1
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(predictor.device)
    return largest_batch(one, two, free)


def largest_batch(one: int, two: int, free: int) -> int:
    """The largest power of two, 1 to MOST_TILES, of tiles that take SHARE of the free bytes.

    Args:
        one: bytes at the height while one tile is computed.
        two: likewise with two; what each tile takes is the difference.
        free: bytes.
    """
    each = max(two - one, 1)
    most = int((SHARE * free - one) // each) + 1
    return min(1 << (max(most, 1).bit_length() - 1), MOST_TILES)


def _peak(predictor: Predictor, tile: Zyx) -> int:
    """Bytes that a full batch takes at the height, beside the network."""
    device = predictor.device
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    with predictor.computing():
        predictor.compute(torch.zeros((predictor.batch_size, 1, *tile), device=device))
    return int(torch.cuda.max_memory_allocated(device)) - int(before)
