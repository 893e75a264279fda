"""Tiles in, probability out: batches of network inputs, blended over a box.

Knows tensors and boxes of voxels, no files.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cleftcli.errors import ResourceError
from cleftcli.geometry import Roi, Zyx
from cleftcli.model import checkpoint
from cleftcli.model.device import autocast
from cleftcli.model.objectives import Objective

BLENDS = ("bump", "none")


@dataclass(frozen=True)
class Predictor:
    """A network ready to predict: where, how precisely, how many tiles at once.

    The last batch of a box is filled up with copies: a tile is then always computed in a batch
    of the same size, and its values do not depend on which other tiles it came with.
    """

    network: nn.Module
    objective: Objective
    device: torch.device
    precision: str
    batch_size: int = 1

    def probabilities(self, tiles: Sequence[np.ndarray]) -> np.ndarray:
        """Cleft probability of each tile: (n, z, y, x) float32 in [0, 1].

        Args:
            tiles: up to batch_size of (z, y, x) float32 in [-1, 1].

        Raises:
            ResourceError: the device has no memory for the batch.
        """
        filled = [*tiles, *[tiles[-1]] * (self.batch_size - len(tiles))]
        batch = torch.from_numpy(np.stack(filled)[:, None])
        batch = batch.to(self.device, memory_format=torch.channels_last_3d)
        try:
            with torch.inference_mode(), autocast(self.device, self.precision):
                found = self.objective.probability(self.network(batch))
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"the device has no memory for batches of {self.batch_size} tiles; "
                f"try --batch-size {max(self.batch_size // 2, 1)} ({error})"
            ) from error
        return np.asarray(found[: len(tiles)].cpu().numpy())


@functools.lru_cache(maxsize=2)
def load_predictor(
    path: Path, *, device: torch.device, precision: str, batch_size: int, threads: int
) -> Predictor:
    """The predictor of a checkpoint, made once per process."""
    torch.set_num_threads(threads)
    found, network = checkpoint.restore(path)
    network = fold_batch_norms(network)
    network = network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return Predictor(network, found.new_objective(), device, precision, batch_size)


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, each batch norm folded into the convolution before it.

    Changed in place and returned; the same function but for rounding.
    """
    for module in network.eval().modules():
        if not isinstance(module, nn.Sequential):
            continue
        for n, (first, second) in enumerate(itertools.pairwise(list(module))):
            if isinstance(first, nn.Conv3d) and isinstance(second, nn.BatchNorm3d):
                module[n], module[n + 1] = fuse_conv_bn_eval(first, second), nn.Identity()
    return network


def predict_box(
    predictor: Predictor,
    raw: np.ndarray,
    *,
    hull: Roi,
    tiles: Sequence[Roi],
    write: Roi,
    blend: str,
) -> np.ndarray:
    """Blended cleft probability of the voxels in `write`: (z, y, x) float32 in [0, 1].

    Tiles are accumulated in the order given; as long as that is the grid's order, a voxel's value
    depends on its own tiles alone, not on the box.

    Args:
        predictor: the network.
        raw: (z, y, x) float32 in [-1, 1] over `hull`, which holds all tiles.
        hull: the box that `raw` covers.
        tiles: those that touch `write`, in raster order.
        write: the box asked for.
        blend: "bump" weighs a tile's centre more than its faces; "none" stacks tiles as the paper
            does, a later one over an earlier.
    """
    total = np.zeros(write.shape, np.float32)
    weights = np.zeros(write.shape, np.float32)
    bump = bump_window(tiles[0].shape)
    for batch in _batched(tiles, predictor.batch_size):
        found = predictor.probabilities([_tile(raw, tile, hull) for tile in batch])
        for tile, probability in zip(batch, found, strict=True):
            common = tile.intersect(write)
            here, there = common.within(write), common.within(tile)
            if blend == "none":
                total[here] = probability[there]
            else:
                total[here] += probability[there] * bump[there]
                weights[here] += bump[there]
    return total if blend == "none" else total / weights


def _tile(raw: np.ndarray, tile: Roi, hull: Roi) -> np.ndarray:
    return grey_constant_sections(raw[tile.within(hull)].copy())


def grey_constant_sections(raw: np.ndarray) -> np.ndarray:
    """A network input whose sections without contrast are 0: a lost section is grey.

    Args:
        raw: (z, y, x) float32 in [-1, 1]; changed in place and returned.

    Source: Heinrich et al. 2018, in training and prediction alike.
    """
    flat = raw.reshape(len(raw), -1)
    raw[flat.min(axis=1) == flat.max(axis=1)] = 0
    return raw


def _batched(tiles: Sequence[Roi], size: int) -> Iterator[list[Roi]]:
    remaining = iter(tiles)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def bump_window(shape: Zyx) -> np.ndarray:
    """Weights that fall from a tile's centre to its faces, nowhere 0: sin^2 on each axis."""
    z, y, x = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape)
    window: np.ndarray = (z[:, None, None] * y[:, None] * x).astype(np.float32)
    return window
