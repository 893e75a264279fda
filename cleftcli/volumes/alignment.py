"""Two volumes of one tissue: the voxels of one that another covers."""

from __future__ import annotations

import numpy as np

from cleftcli.errors import InputError
from cleftcli.geometry import zyx
from cleftcli.volumes.volume import Volume, crop


def same_voxels(volume: Volume, other: Volume) -> Volume:
    """The other volume over the voxels of this one; it may reach beyond them, by whole voxels.

    Raises:
        InputError: their voxel sizes differ or are not known, or the other does not cover this one.
    """
    ours, theirs = volume.voxel_size, other.voxel_size
    if not np.allclose(ours, theirs, rtol=1e-6):
        raise InputError(
            f"{volume.address} has voxels of {ours} nm, {other.address} of {theirs} nm"
            f"{_turned(ours, theirs)}"
        )
    apart = np.subtract(volume.space.offset, other.space.offset) / ours
    if not np.allclose(apart, np.rint(apart), atol=0.01):
        raise InputError(
            f"{volume.address} starts at {volume.space.offset} nm, {other.address} at "
            f"{other.space.offset} nm: their voxels do not coincide"
        )
    roi = volume.roi.shift(zyx(np.rint(apart).astype(int).tolist()))
    if not other.roi.holds(roi):
        raise InputError(
            f"{volume.address} covers voxels {roi} of {other.address}, which has only "
            f"{other.roi}{_turned(volume.shape, other.shape)}"
        )
    return crop(other, roi)


def _turned(a: tuple[float, ...], b: tuple[float, ...]) -> str:
    return "; is one of them in x, y, z?" if tuple(a) == tuple(b)[::-1] and a != b else ""
