"""From a raw volume to the cleft probability in any box of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from cleftcli.blockwise import Process, in_one_thread, threads_here
from cleftcli.errors import InputError, UsageError
from cleftcli.geometry import Block, Roi, TileGrid, Zyx, hull, zyx
from cleftcli.inspection import BlockInput
from cleftcli.mask import Mask
from cleftcli.model.device import choose_device
from cleftcli.model.inference import Predictor, constant_sections, load_predictor, predict_box
from cleftcli.model.memory import fitting_batch
from cleftcli.stored import store
from cleftcli.volumes import Volume, split_address
from cleftcli.volumes.intensity import Range, centred

DTYPES: dict[str, type] = {"uint8": np.uint8, "float32": np.float32}
VALUE_IS = {"uint8": "value / 255", "float32": "value"}  # how 0 to 1 is read from what is stored
BLACK = -1.0  # of what a network sees
EMPTY_EDGE = 9  # voxels of a black square in a section that is no tissue


def tile_grid(
    shape: Zyx, tile: Zyx, overlap: Zyx | None = None, context: Zyx = (0, 0, 0)
) -> TileGrid:
    """The tiles of a volume.

    Args:
        shape: of the volume, voxels.
        tile: voxels.
        overlap: voxels that tiles share; None is a quarter of their edges, or twice the context.
        context: voxels at a tile's faces that it does not decide, where there is a neighbour.

    Raises:
        UsageError: tiles would leave gaps.
    """
    least = zyx([2 * c for c in context])
    if overlap is not None and any(o < c for o, c in zip(overlap, least, strict=True)):
        raise UsageError(f"context {context} takes an overlap of {least} at least, not {overlap}")
    shared = overlap or [max(n // 4, c) for n, c in zip(tile, least, strict=True)]
    stride = zyx([n - o for n, o in zip(tile, shared, strict=True)])
    return TileGrid(shape, tile, stride, context)


def quantise(probability: np.ndarray) -> np.ndarray:
    """Probability 0..1 as uint8 0..255, rounded: how predictions are stored."""
    stored = np.empty(probability.shape, np.uint8)
    for section in np.ndindex(probability.shape[:-2]):  # what lies between stays in the cache
        np.rint(probability[section] * 255, out=stored[section], casting="unsafe")
    return stored


def map_address(output: str, name: str) -> str:
    """Where a map lies: `cleft` is the output itself, `boundary` takes that word's place in it."""
    if name == "cleft":
        return output
    container, dataset = split_address(output)
    stem = dataset.removesuffix("cleft") if dataset.endswith("cleft") else f"{dataset}_"
    return f"{container}/{stem}{name}"


@dataclass(frozen=True)
class Tiling:
    """Where the network looks, and how tiles become one volume: see `predict_box`."""

    grid: TileGrid
    blend: str


def tiling_of(
    shape: Zyx, tile: Zyx, blend: str, *, overlap: Zyx | None = None, context: Zyx = (0, 0, 0)
) -> Tiling:
    """The tiles of a volume, stacked with no more overlap than context asks for, or blended.

    Raises:
        UsageError: tiles would leave gaps.
    """
    if blend == "none" and overlap is None:
        overlap = zyx([2 * c for c in context])
    return Tiling(tile_grid(shape, tile, overlap, context), blend)


class Input(NamedTuple):
    """What the network is shown for a box, and what that box was like.

    `raw` is (z, y, x) float32 in [-1, 1] over all tiles that decide a voxel of the box; `empty`
    tells that it has no contrast anywhere. `constant_sections` are the z of sections without
    contrast, taken as grey; `strange` counts NaN and inf, taken as grey too; `inside` is the part
    of `raw` in the box itself.
    """

    raw: np.ndarray
    empty: bool
    constant_sections: list[int]
    strange: int
    inside: np.ndarray


def read_input(volume: Volume, black_white: Range, grid: TileGrid, roi: Roi) -> Input:
    """Read what decides the voxels in `roi`: every input voxel once."""
    box = hull(grid.touching(roi))
    stored = volume.read(box)
    raw = centred(stored, black_white)
    inside = raw[roi.within(box)]
    constant = np.flatnonzero(constant_sections(inside)) + roi.offset[0]
    empty = constant_sections(raw.reshape(1, -1, raw.shape[-1])).all()
    strange = int((~np.isfinite(stored[roi.within(box)])).sum()) if stored.dtype.kind == "f" else 0
    return Input(raw, bool(empty), constant.tolist(), strange, inside)


def predict_roi(
    predictor: Predictor, volume: Volume, black_white: Range, tiling: Tiling, roi: Roi
) -> np.ndarray:
    """The predictor's maps of the voxels in `roi`: (maps, z, y, x) float32 in [0, 1]."""
    raw = read_input(volume, black_white, tiling.grid, roi).raw
    return predict_box(predictor, raw, grid=tiling.grid, write=roi, blend=tiling.blend)


@dataclass(frozen=True)
class PredictBlock(Process):
    """Predict one block and write it: addresses and numbers, for any worker process.

    `origin` is the output's first voxel in the volume. Positives are counted from `threshold` on.
    Maps after the first lie beside `output`. `threads` is 0 where the worker knows how many it has.
    """

    raw: BlockInput
    checkpoint_path: Path
    device: str
    precision: str
    batch_size: int
    threads: int
    tiling: Tiling
    tta: str
    maps: tuple[str, ...]
    black_white: Range
    threshold: float
    output: str
    origin: Zyx
    dtype: str
    mask: Mask | None = None
    at_once = 3  # one is read, one computed and one written at the same time

    @property
    def decides(self) -> dict[str, Any]:
        """The settings that decide a voxel."""
        return {
            "intensity_range": list(self.black_white),
            "tile": list(self.tiling.grid.tile),
            "stride": list(self.tiling.grid.stride),
            "context": list(self.tiling.grid.context),
            "blend": self.tiling.blend,
            "tta": self.tta,
            "channels": list(self.maps),
            "device": self.device,
            "precision": self.precision,
            "batch_size": self.batch_size,
        }

    @property
    def bytes_per_voxel(self) -> int:
        """What a block holds: raw as uint8 and float32, weights, sum and result of each map."""
        return 9 + 8 * len(self.maps)

    def fitting_batch(self) -> int:
        """How many tiles at once the GPU has memory for."""
        return fitting_batch(self.predictor(), self.tiling.grid.tile)

    def predictor(self) -> Predictor:
        """What it computes with, loaded once per process."""
        return load_predictor(
            self.checkpoint_path,
            device=choose_device(self.device),
            precision=self.precision,
            batch_size=self.batch_size,
            threads=self.threads or threads_here(),
            tta=self.tta,
            maps=self.maps,
        )

    def __call__(self, block: Block) -> dict[str, Any]:
        """Write the block; what its input was like, and where positives lie.

        Raises:
            DeviceLost: the GPU failed for good.
            InputError: a chunk is damaged, missing where it may not be, or the network gave NaN.
            ResourceError: the device does not suffice.
        """
        grid, blend, write = self.tiling.grid, self.tiling.blend, block.write
        volume, noted = self.raw.opened(write)
        shown = read_input(volume, self.black_white, grid, write)
        box = partial(predict_box, self.predictor(), grid=grid, write=write, blend=blend)
        found = in_one_thread(partial(box, shown.raw))
        if not np.isfinite([found.min(), found.max()]).all():  # both are NaN where any is
            raise InputError(
                f"the network gave NaN or inf in block {write}; try --precision float32"
            )
        if self.mask is not None:
            found[:, ~self.mask.inside(write)] = 0
        stored = self._store(found if self.dtype == "float32" else quantise(found), write)
        positive = found[0] >= self.threshold
        return {
            "constant_sections": shown.constant_sections,
            "strange": shown.strange,
            **noted,
            "empty": int(shown.empty),
            "stored": stored,
            "positive": int(np.count_nonzero(positive)),
            "positive_in_black": _in_black(positive, shown.inside),
        }

    def _store(self, levels: np.ndarray, write: Roi) -> dict[str, list[int]]:
        here = write.shift(zyx([-o for o in self.origin]))
        stored: dict[str, list[int]] = {}
        for name, values in zip(self.maps, levels, strict=True):
            stored |= store(map_address(self.output, name), here, values)
        return stored


def _in_black(positive: np.ndarray, raw: np.ndarray) -> int:
    """How many positive voxels lie in black squares of a section: where there is no tissue.

    Single black voxels are tissue, for clefts are the darkest of it.
    """
    if not (raw[positive] == BLACK).any():
        return 0
    black = (raw == BLACK).astype(np.uint8)
    empty = ndimage.grey_opening(black, (1, EMPTY_EDGE, EMPTY_EDGE), mode="nearest")
    return int(np.count_nonzero(positive & (empty > 0)))
