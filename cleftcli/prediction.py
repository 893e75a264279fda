"""From a raw volume to the cleft probability in any box of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cleftcli.geometry import Roi, TileGrid, Zyx, hull, zyx
from cleftcli.model.inference import Predictor, predict_box
from cleftcli.volumes import Volume
from cleftcli.volumes.intensity import Range, unit


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
    """Cleft probability of a box, (z, y, x) float32, and its sections without contrast."""

    probability: np.ndarray
    constant_sections: int


def predict_roi(
    predictor: Predictor, volume: Volume, black_white: Range, tiling: Tiling, roi: Roi
) -> Prediction:
    """Predict the voxels in `roi`.

    Every input voxel is read once, in one box that holds all tiles which touch `roi`.
    """
    tiles = tiling.grid.touching(roi)
    box = hull(tiles)
    raw = unit(volume.read(box), black_white) * 2 - 1
    sections = raw[roi.within(box)].reshape(roi.shape[0], -1)
    constant = int((sections.min(axis=1) == sections.max(axis=1)).sum())
    found = predict_box(predictor, raw, hull=box, tiles=tiles, write=roi, blend=tiling.blend)
    return Prediction(found, constant)
