"""Where a volume is worth work: a mask, as fine as the volume or coarser by whole factors."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from cleftcli.errors import InputError
from cleftcli.geometry import Roi, Zyx, between, zyx
from cleftcli.inspection import open_input
from cleftcli.volumes import AS_STORED, Volume, open_volume

log = logging.getLogger(__name__)

NAMES = ("mask", "volumes/mask")
FACTOR_OFF = 0.01  # of a factor: voxel sizes are often rounded
VOXEL_OFF = 0.01  # of a voxel


@dataclass(frozen=True)
class Mask:
    """The voxels of a volume that are inside: an address and numbers, for any worker process.

    A voxel of the mask stands for `factor` voxels of the volume on each axis; the first one
    begins at the volume's voxel `start`. What the mask does not reach is outside.
    """

    address: str
    factor: Zyx
    start: Zyx

    def identity(self) -> list[str | int]:
        """What tells it from others: address, place, and a stamp that changes when it does."""
        stamp = open_input(self.address, AS_STORED).scan().stamp
        return [self.address, *self.factor, *self.start, stamp]

    def covers(self, roi: Roi) -> bool:
        """Whether any voxel in a box of the volume is inside."""
        return bool(self._read(self._under(roi)).any())

    def inside(self, roi: Roi) -> np.ndarray:
        """Which voxels in a box of the volume are inside: bool, of the shape of the box."""
        under = self._under(roi)
        axes = zip(roi.offset, roi.end, self.start, self.factor, under.offset, strict=True)
        at = [(np.arange(a, b) - s) // f - o for a, b, s, f, o in axes]
        return np.asarray(self._read(under)[np.ix_(*at)])

    def _under(self, roi: Roi) -> Roi:
        """The mask's voxels that a box of the volume touches; they may leave the mask."""
        pairs = list(zip(self.start, self.factor, strict=True))
        first = [(o - s) // f for o, (s, f) in zip(roi.offset, pairs, strict=True)]
        end = [-((s - e) // f) for e, (s, f) in zip(roi.end, pairs, strict=True)]
        return between(zyx(first), zyx(end))

    def _read(self, box: Roi) -> np.ndarray:
        """Whether the mask is set, False around it."""
        volume = open_input(self.address, AS_STORED)
        here = box.intersect(volume.roi)
        found = np.zeros(box.shape, bool)
        if here.size:
            found[here.within(box)] = volume.read(here) != 0
        return found


def open_mask(address: str, volume: Volume) -> Mask:
    """The mask at an address, laid over a volume; what is not 0 is inside.

    Where both voxel sizes are known, they and the offsets say how it lies. Otherwise both begin
    at the same voxel and the shapes tell; at the far faces a voxel of the mask may be cut.

    Raises:
        InputError: it is no mask, or does not lie on the volume's voxels.
    """
    found = open_volume(address, prefer=NAMES)
    if found.dtype.kind not in "bui":
        raise InputError(f"{found.address} is {found.dtype}; a mask is bool or whole numbers")
    if found.space.voxel_size and volume.space.voxel_size:
        factor = zyx([_ratio(found, volume, axis) for axis in range(3)])
        start = zyx([_shift(found, volume, axis, factor[axis]) for axis in range(3)])
    else:
        factor = zyx([_fit(found, volume, axis) for axis in range(3)])
        start = (0, 0, 0)
    _check_reach(found, volume, Roi(start, zyx(np.multiply(found.shape, factor).tolist())), factor)
    return Mask(found.address, factor, start)


def _ratio(mask: Volume, volume: Volume, axis: int) -> int:
    """How many of the volume's voxels one of the mask's is long, by their sizes."""
    ours, theirs = mask.voxel_size[axis], volume.voxel_size[axis]
    factor = round(ours / theirs)
    if factor < 1 or abs(ours / theirs - factor) > FACTOR_OFF * factor:
        raise InputError(
            f"{mask.address}: its voxels of {mask.voxel_size} nm are no whole multiples of the "
            f"volume's, {volume.voxel_size}"
        )
    return factor


def _shift(mask: Volume, volume: Volume, axis: int, factor: int) -> int:
    """The volume's voxel at which the mask begins, by their offsets.

    An offset is that of the centre of the first voxel. Of its corner, where only that leads to a
    whole number, or both are equal: many masks just copy the volume's.
    """
    ours, theirs = mask.space.offset, volume.space.offset
    corners = (ours[axis] - theirs[axis]) / volume.voxel_size[axis]
    centres = corners - (factor - 1) / 2
    for shift in (corners, centres) if abs(corners) < VOXEL_OFF else (centres, corners):
        if abs(shift - round(shift)) < VOXEL_OFF:
            return round(shift)
    raise InputError(
        f"{mask.address}: begins at {ours} nm, the volume at {theirs}: with voxels of "
        f"{volume.voxel_size} nm, {centres:.2f} voxels apart on axis {'zyx'[axis]}, no whole number"
    )


def _fit(mask: Volume, volume: Volume, axis: int) -> int:
    """How many of the volume's voxels one of the mask's is long, by their shapes.

    Of several that fit, the one that is a power of two or leaves no remainder.
    """
    n, m = volume.shape[axis], mask.shape[axis]
    fits = range(-(-n // m), -(-n // (m - 1))) if m > 1 else range(n, n + 1)
    plain = [f for f in fits if n % f == 0 or f & (f - 1) == 0]
    if len(fits) == 1 or len(plain) == 1:
        return fits[0] if len(fits) == 1 else plain[0]
    what = f"{fits[0]} to {fits[-1]} of the volume's" if fits else "no whole number"
    raise InputError(
        f"{mask.address}: of shape {mask.shape} on {volume.shape}, one voxel takes {what} on axis "
        f"{'zyx'[axis]}; both must state their voxel size"
    )


def _check_reach(mask: Volume, volume: Volume, reach: Roi, factor: Zyx) -> None:
    """Say where a mask ends before the volume does, or far behind it.

    Raises:
        InputError: it lies beside the volume.
    """
    if not reach.intersect(volume.roi).size:
        raise InputError(f"{mask.address}: lies at voxels {reach}, beside {volume.roi}")
    far = reach.intersect(volume.roi.grow(zyx([f - 1 for f in factor]))) != reach
    if far or not reach.holds(volume.roi):
        log.warning(
            "%s covers voxels %s, the volume is %s: around the mask is outside",
            mask.address,
            reach,
            volume.roi,
        )
