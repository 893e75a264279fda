"""From a raw volume to the cleft probability in any box of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from cleftcli.blockwise import Process
from cleftcli.errors import InputError
from cleftcli.geometry import Block, Roi, TileGrid, Zyx, hull, zyx
from cleftcli.inspection import Missing, missing_chunks, open_input
from cleftcli.model.device import choose_device
from cleftcli.model.inference import Predictor, load_predictor, predict_box
from cleftcli.stored import store
from cleftcli.volumes import Reading, Volume
from cleftcli.volumes.intensity import Range, unit

EMPTY_EDGE = 9  # voxels of a black square in a section that is no tissue


def tile_grid(shape: Zyx, tile: Zyx, overlap: Zyx | None = None) -> TileGrid:
    """The tiles of a volume; they overlap by a quarter of their edges unless stated, in voxels."""
    shared = overlap or zyx([n // 4 for n in tile])
    return TileGrid(shape, tile, zyx([n - o for n, o in zip(tile, shared, strict=True)]))


def quantise(probability: np.ndarray) -> np.ndarray:
    """Probability 0..1 as uint8 0..255, rounded: how predictions are stored."""
    stored: np.ndarray = np.rint(probability * 255).astype(np.uint8)
    return stored


@dataclass(frozen=True)
class Tiling:
    """Where the network looks, and how tiles become one volume: see `predict_box`."""

    grid: TileGrid
    blend: str


class Prediction(NamedTuple):
    """Cleft probability of a box, (z, y, x) float32, and what its input was like.

    `constant_sections` are the z of sections without contrast, taken as grey; `strange` counts
    NaN and inf, taken as grey too; `black` is True where the input is as black as can be.
    """

    probability: np.ndarray
    constant_sections: list[int]
    strange: int
    black: np.ndarray


def predict_roi(
    predictor: Predictor, volume: Volume, black_white: Range, tiling: Tiling, roi: Roi
) -> Prediction:
    """Predict the voxels in `roi`.

    Every input voxel is read once, in one box that holds all tiles which touch `roi`.
    """
    tiles = tiling.grid.touching(roi)
    box = hull(tiles)
    stored = volume.read(box)
    raw = unit(stored, black_white) * 2 - 1
    inside = raw[roi.within(box)]
    sections = inside.reshape(roi.shape[0], -1)
    constant = np.flatnonzero(sections.min(axis=1) == sections.max(axis=1)) + roi.offset[0]
    strange = int((~np.isfinite(stored[roi.within(box)])).sum()) if stored.dtype.kind == "f" else 0
    black = inside == -1
    found = predict_box(predictor, raw, hull=box, tiles=tiles, write=roi, blend=tiling.blend)
    return Prediction(found, constant.tolist(), strange, black)


@dataclass(frozen=True)
class PredictBlock(Process):
    """Predict one block and write it: addresses and numbers, for any worker process.

    `origin` is the output's first voxel in the volume. Positives are counted from `threshold` on;
    `ask` has each block look for missing chunks, where nobody could list them beforehand.
    """

    volume: str
    reading: Reading
    missing: Missing
    ask: bool
    checkpoint_path: Path
    device: str
    precision: str
    batch_size: int
    threads: int
    tiling: Tiling
    black_white: Range
    threshold: float
    output: str
    origin: Zyx
    dtype: str

    def __call__(self, block: Block) -> dict[str, Any]:
        """Write the block; what its input was like, and where positives lie.

        Raises:
            InputError: a chunk is damaged, missing where it may not be, or the network gave NaN.
        """
        predictor = load_predictor(
            self.checkpoint_path,
            device=choose_device(self.device),
            precision=self.precision,
            batch_size=self.batch_size,
            threads=self.threads,
        )
        volume = open_input(self.volume, self.reading)
        gaps = missing_chunks(volume, self.missing, block.write) if self.ask else 0
        found = predict_roi(predictor, volume, self.black_white, self.tiling, block.write)
        if not np.isfinite(found.probability).all():
            raise InputError(f"the network gave NaN or inf in block {block.write}")
        here = block.write.shift(zyx([-o for o in self.origin]))
        whole = self.dtype == "float32"
        levels = found.probability if whole else quantise(found.probability)
        positive = found.probability >= self.threshold
        return {
            "constant_sections": found.constant_sections,
            "strange": found.strange,
            "blocks_with_missing_chunks": int(gaps > 0),
            "stored": store(self.output, here, levels),
            "positive": int(positive.sum()),
            "positive_in_black": _in_black(positive, found.black),
        }


def _in_black(positive: np.ndarray, black: np.ndarray) -> int:
    """How many positive voxels lie in black squares of a section: where there is no tissue.

    Single black voxels are tissue, for clefts are the darkest of it.
    """
    if not (positive & black).any():
        return 0
    square = (1, EMPTY_EDGE, EMPTY_EDGE)
    empty = ndimage.grey_opening(black.astype(np.uint8), square, mode="nearest")
    return int((positive & (empty > 0)).sum())
