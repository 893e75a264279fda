"""A small piece of generated tissue, repeated to any size: to grow a large one takes long."""

from functools import cache

import numpy as np

from cleftcli.geometry import Zyx
from cleftcli.labels import BACKGROUND
from cleftcli.synthetic import Tissue, tissue

PIECE, GROWN_AT = (20, 256, 256), (40.0, 8.0, 8.0)
VOXEL_SIZE = (50.0, 4.6, 4.6)  # of volumes: the default checkpoint's, which then has no doubts
RARE = 7  # of the clefts of generated tissue, every seventh: as rare as real


@cache
def _grown() -> Tissue:
    return tissue(PIECE, GROWN_AT, seed=1)


def raw(shape: Zyx) -> np.ndarray:
    """Sections as a microscope gives them, uint8."""
    return _repeated(_grown().raw, shape)


def clefts(shape: Zyx, every: int = 1) -> np.ndarray:
    """Ids of every n-th cleft, uint64."""
    ids = _grown().clefts
    kept = np.where((ids % every == 0) & (ids != BACKGROUND), ids, BACKGROUND)
    return _repeated(kept.astype(np.uint64), shape)


def prediction(ids: np.ndarray) -> np.ndarray:
    """Their probability as uint8: 0 or 255, the same moved by 1, 3 and 2 voxels."""
    return np.roll(ids != BACKGROUND, (1, 3, 2), (0, 1, 2)).astype(np.uint8) * 255


def _repeated(piece: np.ndarray, shape: Zyx) -> np.ndarray:
    times = [-(-n // m) for n, m in zip(shape, piece.shape, strict=True)]
    return np.tile(piece, times)[tuple(map(slice, shape))]
