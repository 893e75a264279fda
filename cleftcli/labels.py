"""From cleft ids to what a network learns: masks and distance maps. Arrays in, arrays out.

Distances are anisotropic, in nm, from voxel centre to voxel centre.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import edt
import numpy as np
from scipy import ndimage

from cleftcli.errors import UsageError
from cleftcli.geometry import Zyx, zyx

BACKGROUND = 2**64 - 1  # CREMI: not a cleft
IGNORE = 2**64 - 2  # CREMI: nobody knows; neither trained on nor scored
IGNORE_MASK = 255  # in a uint8 mask; distance maps hold NaN instead

SATURATION = 9.02  # tanh in float64, cast to float32, is exactly 1 from 9.012 on
HEINRICH_SCALE_NM = 50.0
HEINRICH_CLIP = 2.76  # in scales: 138 nm

Nm = tuple[float, float, float]


def cleft_mask(ids: np.ndarray, *, zero_is_cleft: bool = False) -> np.ndarray:
    """True where an annotated voxel belongs to a cleft.

    Args:
        ids: (z, y, x), any integer or bool dtype; BACKGROUND and IGNORE as CREMI has them.
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
    """CleftNet's boundary label: tanh(d / scale), positive inside clefts, negative outside.

    Inside, d is the distance to the nearest voxel that is not of this cleft, so that touching
    clefts bound each other; outside, to the nearest cleft voxel. float32 in [-1, 1], NaN where
    unknown; without any cleft -1 everywhere.

    Args:
        ids: (z, y, x) cleft ids.
        voxel_size: nm.
        scale: the distance, in nm, at which tanh has the argument 1.
        zero_is_cleft: see `cleft_mask`.

    Source: Liu & Ji 2021, eq. 6. Deviation: measured to the nearest voxel outside rather than to
    the nearest boundary voxel, which would be 0 on the boundary itself; a scale.
    """
    inside = cleft_mask(ids, zero_is_cleft=zero_is_cleft)
    distance = _distance(_compact(ids, inside), voxel_size) - _distance(~inside, voxel_size)
    return _tanh(distance, scale, ids)


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
    distance = _distance(core, voxel_size) - _distance(~inside, voxel_size)
    return _tanh(np.clip(distance, -HEINRICH_CLIP * scale, HEINRICH_CLIP * scale), scale, ids)


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


def _tanh(distance: np.ndarray, scale: float, ids: np.ndarray) -> np.ndarray:
    found = np.tanh(distance / scale).astype(np.float32)
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
        return zyx([math.ceil(self.reach * scale_nm / v) + self.margin for v in voxel_size])


TARGETS: dict[str, Target] = {
    "mask": Target(mask, np.uint8),
    "tanh-distance": Target(tanh_distance, np.float32, reach=SATURATION),
    "signed-distance": Target(
        signed_distance, np.float32, HEINRICH_SCALE_NM, "nm", reach=HEINRICH_CLIP, margin=1
    ),
}
