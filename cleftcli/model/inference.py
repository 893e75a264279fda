"""Tiles in, maps out: batches of network inputs, blended over a box on the device that computes.

Knows tensors and boxes of voxels, no files.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cleftcli.geometry import Roi, TileGrid, Zyx, hull
from cleftcli.model import checkpoint
from cleftcli.model.device import autocast, device_errors, out_of_memory, use_cpu
from cleftcli.model.objectives import Objective

log = logging.getLogger(__name__)

BLENDS = ("bump", "none")
# test-time augmentation: name -> the axes of (n, c, z, y, x) to flip, beside the tile as it is
TTA: dict[str, tuple[tuple[int, ...], ...]] = {
    "none": (),
    "flips": ((2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4)),
}
SECONDS_BETWEEN_LINES = 30.0
SPARSE = 16  # every so many voxels show the contrast of most sections
_loading = threading.Lock()


@dataclass
class Predictor:
    """A network ready to predict: where, how precisely, how many tiles at once.

    The last batch of a box is filled up with copies: a tile is then always computed in a batch
    of the same size, and its values do not depend on which other tiles it came with. Where the
    device has no memory for a batch, `batch_size` is halved from there on, and values may be
    rounded otherwise than before.

    `maps` are those of the objective to give, `tta` a row of TTA. `threads` are those of the CPU.
    """

    network: nn.Module
    objective: Objective
    device: torch.device
    precision: str
    batch_size: int = 1
    tta: str = "none"
    maps: tuple[str, ...] = ("cleft",)
    threads: int = field(default_factory=torch.get_num_threads)
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute inside this context, one thread at a time."""
        with self._turn, torch.inference_mode():
            use_cpu(self.threads)
            yield

    def predict(self, tiles: Tensor) -> Tensor:
        """The maps of each tile: (n, maps, z, y, x) float32 in [0, 1], on the device.

        Args:
            tiles: (n, 1, z, y, x) float32 in [-1, 1], on the device.

        Raises:
            ResourceError: the device has no memory for one tile.
        """
        while True:
            try:
                parts = [self.compute(part) for part in torch.split(tiles, self.batch_size)]
                return torch.cat(parts) if len(parts) > 1 else parts[0]
            except torch.OutOfMemoryError as error:
                if self.batch_size == 1:
                    raise out_of_memory(self.device, "one tile", error) from error
                less = self.batch_size // 2
                said = "%s has no memory for %d tiles at once: %d from here on"
                log.warning(said, self.device, self.batch_size, less)
                self.batch_size = less

    def compute(self, tiles: Tensor) -> Tensor:
        """As `predict`, of up to `batch_size` tiles at once, whether there is memory or not."""
        count = len(tiles)
        if count < self.batch_size:
            last = tiles[-1:].expand(self.batch_size - count, *tiles.shape[1:])
            tiles = torch.cat([tiles, last])
        total, flips = self._read(tiles), TTA[self.tta]
        for axes in flips:
            total += self._read(tiles.flip(axes)).flip(axes)
        if flips:
            total /= 1 + len(flips)
        return total[:count]

    def _read(self, tiles: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            output = self.network(tiles.to(memory_format=torch.channels_last_3d))
            return torch.stack([self.objective.maps[m](output) for m in self.maps], dim=1)


def load_predictor(
    path: Path,
    *,
    device: torch.device,
    precision: str,
    batch_size: int,
    threads: int,
    tta: str = "none",
    maps: tuple[str, ...] = ("cleft",),
) -> Predictor:
    """The predictor of a checkpoint, made once per process, however many threads ask.

    Raises:
        ResourceError: the device has no memory for the network, or was lost.
    """
    with _loading, device_errors(device, "the network"):
        return _load(
            path,
            device=device,
            precision=precision,
            batch_size=batch_size,
            threads=threads,
            tta=tta,
            maps=maps,
        )


@functools.lru_cache(maxsize=2)
def _load(path: Path, *, device: torch.device, **options: Any) -> Predictor:
    found, network = checkpoint.restore(path)
    network = fold_batch_norms(network)
    network = network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return Predictor(network, found.new_objective(), device, **options)


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
    predictor: Predictor, raw: np.ndarray, *, grid: TileGrid, write: Roi, blend: str
) -> np.ndarray:
    """Blended maps of the voxels in `write`: (maps, z, y, x) float32 in [0, 1].

    Tiles are accumulated in the grid's order: a voxel's value depends on its own tiles alone, not
    on the box. A tile without contrast is 0 in every map; the network does not see it.

    Args:
        predictor: the network; one thread at a time computes with it.
        raw: (z, y, x) float32 in [-1, 1] over the hull of the grid's tiles that touch `write`.
        grid: the tiles of the volume.
        write: the box asked for.
        blend: "bump" weighs the centre of what a tile decides more than its faces; "none" stacks
            tiles as the paper does, a later one over an earlier.

    Raises:
        DeviceLost: the GPU failed for good.
        ResourceError: the device has no memory for a block, or for one tile.
    """
    tiles = grid.touching(write)
    box = hull(tiles)
    lost = [constant_sections(raw[tile.within(box)]) for tile in tiles]
    with device_errors(predictor.device, "a block (a smaller --block takes less)"):
        host = torch.from_numpy(raw)
        host = host if predictor.device.type == "cpu" else host.pin_memory()
        with predictor.computing():
            there = host.to(predictor.device, non_blocking=True)
            views = [there[tile.within(box)] for tile in tiles]
            found = zip(tiles, _told(_maps(predictor, views, lost), len(tiles), write), strict=True)
            total = _blended(found, _zeros(predictor, write.shape), grid, write, blend)
            return np.asarray(total.cpu().numpy())


def _told(maps: Iterable[Tensor], count: int, write: Roi) -> Iterator[Tensor]:
    """The maps; now and then a line in the log, for a block may take a CPU minutes."""
    said = time.monotonic()
    for done, one in enumerate(maps):
        if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            log.info("block %s: %d of %d tiles", write, done, count)
        yield one


def _maps(predictor: Predictor, views: list[Tensor], lost: list[np.ndarray]) -> Iterator[Tensor]:
    """(maps, z, y, x) of each tile in order; those that have any contrast in full batches."""
    seen = [n for n, sections in enumerate(lost) if not sections.all()]
    found = _predicted(predictor, [views[n] for n in seen], [lost[n] for n in seen])
    nothing = _zeros(predictor, views[0].shape)
    for sections in lost:
        yield nothing if sections.all() else next(found)


def _predicted(
    predictor: Predictor, views: list[Tensor], lost: list[np.ndarray]
) -> Iterator[Tensor]:
    size = predictor.batch_size
    for n in range(0, len(views), size):
        tiles, grey = torch.stack(views[n : n + size]), np.stack(lost[n : n + size])
        if grey.any():
            tiles[torch.from_numpy(grey).to(tiles.device)] = 0
        yield from predictor.predict(tiles[:, None])


def _zeros(predictor: Predictor, shape: Iterable[int]) -> Tensor:
    return torch.zeros((len(predictor.maps), *shape), device=predictor.device)


def _blended(
    found: Iterable[tuple[Roi, Tensor]], total: Tensor, grid: TileGrid, write: Roi, blend: str
) -> Tensor:
    """`total`, zeros over `write`, filled with tiles.

    Multiplied, then added: fused they would be rounded otherwise in the tail of a row, wherever
    a block happens to put that.
    """
    weights = torch.zeros(total.shape[1:] if blend == "bump" else 0, device=total.device)
    window = functools.cache(lambda shape: torch.from_numpy(bump_window(shape)).to(total.device))
    for tile, maps in found:
        kept = grid.kept(tile)
        common = kept.intersect(write)
        here, there = common.within(write), common.within(tile)
        if blend == "none":
            total[:, *here] = maps[:, *there]
        else:
            weight = window(kept.shape)[common.within(kept)]
            total[:, *here] += maps[:, *there] * weight
            weights[here] += weight
    return total if blend == "none" else total.div_(weights)


def constant_sections(raw: np.ndarray) -> np.ndarray:
    """Which sections of (..., z, y, x) have no contrast: (..., z) bool."""
    first = raw[..., :1, :1]
    same: np.ndarray = (raw[..., ::SPARSE, ::SPARSE] == first).all((-2, -1))
    same[same] = (raw[same] == first[same]).all((-2, -1))  # few are left to look at wholly
    return same


def grey_constant_sections(raw: np.ndarray) -> np.ndarray:
    """A network input whose sections without contrast are 0: a lost section is grey.

    Args:
        raw: (z, y, x) float32 in [-1, 1]; changed in place and returned.

    Source: Heinrich et al. 2018, in training and prediction alike.
    """
    raw[constant_sections(raw)] = 0
    return raw


def bump_window(shape: Zyx) -> np.ndarray:
    """Weights that fall from a tile's centre to its faces, nowhere 0: sin^2 on each axis."""
    z, y, x = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape)
    window: np.ndarray = (z[:, None, None] * y[:, None] * x).astype(np.float32)
    return window
