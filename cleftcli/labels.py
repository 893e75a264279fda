"""From cleft ids to what a network learns: masks and distance maps. Arrays in, arrays out.

Distances are anisotropic, in nm, from voxel centre to voxel centre.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import edt
import numpy as np
from scipy import ndimage

from cleftcli.errors import UsageError
from cleftcli.geometry import BlockPlan, Roi, Zyx, whole, zyx

BACKGROUND = 2**64 - 1  # CREMI: not a cleft
IGNORE = 2**64 - 2  # CREMI: nobody knows; neither trained on nor scored
IGNORE_MASK = 255  # in a uint8 mask; distance maps hold NaN instead

SATURATION = 9.02  # tanh in float64, cast to float32, is exactly 1 from 9.012 on
HEINRICH_SCALE_NM = 50.0
HEINRICH_CLIP = 2.76  # in scales: 138 nm

CELL: Zyx = (1, 8, 8)  # voxels; smaller cells follow clefts closer, and are more of them
CELLS_A_TILE: Zyx = (16, 8, 8)

Nm = tuple[float, float, float]
Box = tuple[slice, slice, slice]


def cleft_mask(ids: np.ndarray, *, zero_is_cleft: bool = False) -> np.ndarray:
    """True where an annotated voxel belongs to a cleft.

    Args:
        ids: (z, y, x), unsigned or bool; uint64 has BACKGROUND and IGNORE as CREMI does.
        zero_is_cleft: whether id 0 is a cleft, as CREMI's scorer takes it in its HDF5 files.
    """
    if ids.dtype != np.uint64:
        return np.asarray((ids != 0) & ~ignore_mask(ids))
    known = ids < IGNORE
    return np.asarray(known if zero_is_cleft else known & (ids != 0))


def ignore_mask(ids: np.ndarray) -> np.ndarray:
    """True where nobody knows: IGNORE among ids, IGNORE_MASK in a uint8 mask."""
    if ids.dtype == np.uint64:
        return np.asarray(ids == IGNORE)
    return np.asarray(ids == IGNORE_MASK) if ids.dtype == np.uint8 else np.zeros(ids.shape, bool)


def mask(ids: np.ndarray, _voxel_size: Nm, _scale: float, *, zero_is_cleft: bool) -> np.ndarray:
    """1 inside clefts, 0 outside, IGNORE_MASK where unknown: uint8."""
    found = cleft_mask(ids, zero_is_cleft=zero_is_cleft).astype(np.uint8)
    found[ignore_mask(ids)] = IGNORE_MASK
    return found


def tanh_distance(
    ids: np.ndarray, voxel_size: Nm, scale: float, *, zero_is_cleft: bool
) -> np.ndarray:
    """CleftNet's boundary label: tanh(d / scale) inside clefts, 0 outside.

    d is the distance to the nearest voxel that is not of this cleft, so that touching clefts bound
    each other (bool and uint8 are masks: one cleft). float32 in [0, 1], positive in every cleft,
    NaN where unknown.

    Args:
        ids: (z, y, x) cleft ids.
        voxel_size: nm.
        scale: the distance, in nm, at which tanh has the argument 1.
        zero_is_cleft: see `cleft_mask`.

    Source: Liu & Ji 2021, eq. 6. Deviation: measured to the nearest voxel outside rather than to
    the nearest boundary voxel, which would be 0 on the boundary itself; a scale.
    """
    inside = cleft_mask(ids, zero_is_cleft=zero_is_cleft)

    def compute(box: Box) -> np.ndarray:
        mine = _compact(ids[box], inside[box])
        distance = _distance(mine + 1, voxel_size)  # background bounds clefts as they bound it
        return np.where(mine > 0, distance, 0)

    reach = _context(voxel_size, SATURATION * scale)
    return _ignored(_tanh_near(inside, (0, 0, 0), reach, compute, scale, elsewhere=0.0), ids)


def signed_distance(
    ids: np.ndarray, voxel_size: Nm, scale: float, *, zero_is_cleft: bool
) -> np.ndarray:
    """Heinrich's signed tanh distance: 0 on the surface voxels of clefts, negative outside.

    Inside, the distance to the surface layer (the mask less its erosion by 3x3x3); outside, to
    the nearest cleft voxel; clipped at 2.76 scales, then tanh. float32, NaN where unknown.

    Source: Heinrich et al. 2018, section 2.1 and the authors' code. Deviation: the faces of the
    volume are no surface.
    """
    inside = cleft_mask(ids, zero_is_cleft=zero_is_cleft)
    core = ndimage.binary_erosion(inside, np.ones((3, 3, 3)), border_value=1)
    most = HEINRICH_CLIP * scale

    def compute(box: Box) -> np.ndarray:
        outside = ~inside[box]
        surface = np.uint8(0)  # edt's own background: distance 0
        parts = np.where(outside, np.uint8(1), np.where(core[box], np.uint8(2), surface))
        distance = _distance(parts, voxel_size)
        return np.clip(np.where(outside, -distance, distance), -most, most)

    reach = _context(voxel_size, most)
    return _ignored(_tanh_near(inside, reach, reach, compute, scale, elsewhere=-most), ids)


def _compact(ids: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Ids numbered from 1, 0 outside clefts; a mask is one label, for its parts never touch."""
    small = inside.astype(np.uint32)
    if ids.dtype.itemsize > 1:
        small[inside] = np.unique(ids[inside], return_inverse=True)[1] + 1
    return small


def _distance(labels: np.ndarray, voxel_size: Nm) -> np.ndarray:
    """Per voxel of a label > 0, nm to the nearest voxel of another label; inf where there is none.

    Measured in finest voxel edges, where in-plane squares are whole numbers: no rounding then
    depends on how much of the volume was looked at, and blocks equal the whole to the bit.
    """
    finest = min(voxel_size)
    ratio = tuple(v / finest for v in voxel_size)
    found = edt.edt(np.ascontiguousarray(labels), anisotropy=ratio, black_border=False, parallel=1)
    return np.asarray(found, dtype=np.float64) * finest


def _tanh_near(
    inside: np.ndarray,
    near: Zyx,
    reach: Zyx,
    compute: Callable[[Box], np.ndarray],
    scale: float,
    *,
    elsewhere: float,
) -> np.ndarray:
    """tanh(distance / scale), float32: computed near clefts, and that of `elsewhere` beyond.

    Clefts are sparse: their neighbourhoods are a small part of a volume.
    """
    found = np.full(inside.shape, np.tanh(elsewhere / scale), np.float32)
    for write, read in _neighbourhoods(inside, near, reach):
        found[_box(write)] = np.tanh(compute(_box(read))[write.within(read)] / scale)
    return found


def _neighbourhoods(inside: np.ndarray, near: Zyx, reach: Zyx) -> list[tuple[Roi, Roi]]:
    """Boxes that together hold every voxel near a cleft, and each grown by the reach.

    Everything at once where the grown boxes would come to more than that.
    """
    everything = whole(zyx(inside.shape))
    boxes = [(b, b.grow(reach).intersect(everything)) for b in _near(inside, near, reach)]
    few = sum(read.size for _, read in boxes) < everything.size
    return boxes if few else [(everything, everything)]


def _near(inside: np.ndarray, distance: Zyx, reach: Zyx) -> Iterator[Roi]:
    """Tile by tile, the smallest box of cells that are near.

    A cell is near where one with clefts is within the distance of it.
    """
    everything = whole(zyx(inside.shape))
    padded = np.pad(inside, [(0, -n % c) for n, c in zip(inside.shape, CELL, strict=True)])
    split = [n for m, c in zip(padded.shape, CELL, strict=True) for n in (m // c, c)]
    cells = padded.reshape(split).any(axis=(1, 3, 5))
    sides = [2 * -(-d // c) + 1 for d, c in zip(distance, CELL, strict=True)]
    near = ndimage.maximum_filter(cells.astype(np.uint8), sides, mode="constant")
    # what a tile reads around itself must not outweigh the tile
    tiles = [max(n, 4 * r // c) for n, r, c in zip(CELLS_A_TILE, reach, CELL, strict=True)]
    for tile in BlockPlan(whole(zyx(near.shape)), zyx(tiles)):
        found = ndimage.find_objects(near[_box(tile.write)])
        if found:
            first = [s.start for s in found[0]]
            extent = [s.stop - s.start for s in found[0]]
            at = Roi(zyx(first), zyx(extent)).shift(tile.write.offset)
            yield Roi(_times(at.offset, CELL), _times(at.shape, CELL)).intersect(everything)


def _times(a: Zyx, b: Zyx) -> Zyx:
    return zyx([m * n for m, n in zip(a, b, strict=True)])


def _box(roi: Roi) -> Box:
    """Slices of an array whose first voxel is 0."""
    return roi.within(whole(roi.end))


def _context(voxel_size: Nm, reach_nm: float) -> Zyx:
    """How many voxels a length in nm reaches over."""
    return zyx([math.ceil(reach_nm / v) for v in voxel_size])


def _ignored(found: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """NaN where nobody knows."""
    found[ignore_mask(ids)] = np.nan
    return found


@dataclass(frozen=True)
class Target:
    """One kind of training target, and how far around a voxel it looks.

    `scale` is the default in `unit` (nm, or edges of the finest voxel); beyond `reach` scales
    plus `margin` voxels nothing changes a value.
    """

    compute: Callable[..., np.ndarray]
    dtype: type
    scale: float = 1.0
    unit: str = "voxel"
    reach: float = 0.0
    margin: int = 0

    def scale_nm(
        self, voxel_size: Nm, scale: float | None = None, unit: str | None = None
    ) -> float:
        """The scale in nm; None means this target's own.

        Raises:
            UsageError: the scale is not positive or the unit unknown.
        """
        unit = unit or self.unit
        if unit not in ("nm", "voxel"):
            raise UsageError(f"unit {unit!r}: nm or voxel")
        value = self.scale if scale is None else scale
        if not (value > 0 and math.isfinite(value)):
            raise UsageError(f"scale {value} is not positive")
        return value * (min(voxel_size) if unit == "voxel" else 1.0)

    def context(self, voxel_size: Nm, scale_nm: float) -> Zyx:
        """Voxels around a box that decide its values."""
        return zyx([n + self.margin for n in _context(voxel_size, self.reach * scale_nm)])


TARGETS: dict[str, Target] = {
    "mask": Target(mask, np.uint8),
    "tanh-distance": Target(tanh_distance, np.float32, reach=SATURATION),
    "signed-distance": Target(
        signed_distance, np.float32, HEINRICH_SCALE_NM, "nm", reach=HEINRICH_CLIP, margin=1
    ),
}
