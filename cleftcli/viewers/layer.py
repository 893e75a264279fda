"""What a viewer shows: volumes as arrays that read what they are indexed with."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from cleftcli.foreground import Foreground
from cleftcli.geometry import Roi, Zyx, between, zyx
from cleftcli.volumes import AS_STORED, Reading, Volume, open_volume
from cleftcli.volumes.intensity import intensity_range


@dataclass(frozen=True)
class Layer:
    """A volume as a viewer shows it: intensities, a probability, or clefts by their ids."""

    name: str
    address: str
    kind: Literal["raw", "probability", "clefts"]
    reading: Reading = AS_STORED
    threshold: float = 0.5  # of a probability

    @cached_property
    def volume(self) -> Volume:
        """The volume at the address."""
        return open_volume(self.address, reading=self.reading)

    @property
    def black_white(self) -> tuple[float, float]:
        """The stored values that mean black and white, or probability 0 and 1."""
        if self.kind == "raw":
            return intensity_range(self.volume)
        return (0.0, 255.0) if self.volume.dtype == np.uint8 else (0.0, 1.0)


@dataclass(frozen=True)
class Voxels:
    """The voxels of a layer as viewers take arrays: what is indexed is read, and no more.

    Ids are uint64 and 0 where there is no cleft; bool is uint8; everything else is as stored.
    """

    layer: Layer
    ndim = 3

    @property
    def shape(self) -> Zyx:
        """Voxels, zyx."""
        return self.layer.volume.shape

    @property
    def dtype(self) -> np.dtype:
        """Of what is read."""
        if self.layer.kind == "clefts":
            return np.dtype(np.uint64)
        stored = self.layer.volume.dtype
        return np.dtype(np.uint8) if stored.kind == "b" else stored.newbyteorder("=")

    def __getitem__(self, index: Any) -> np.ndarray:
        """The voxels at whole numbers and slices without a step, as of a numpy array."""
        given = index if isinstance(index, tuple) else (index,)
        picked = [*given, *[slice(None)] * (self.ndim - len(given))]
        ends = [_bounds(p, n) for p, n in zip(picked, self.shape, strict=True)]
        data = self._read(between(*(zyx(corner) for corner in zip(*ends, strict=True))))
        return data[tuple(slice(None) if isinstance(p, slice) else 0 for p in picked)]

    def _read(self, roi: Roi) -> np.ndarray:
        if self.layer.kind == "clefts":
            return Foreground(self.layer.volume, "ids", None).ids(roi)
        return self.layer.volume.read(roi).astype(self.dtype, copy=False)


def _bounds(picked: Any, length: int) -> tuple[int, int]:
    """The first voxel that an index picks on an axis, and the one behind the last."""
    if isinstance(picked, slice):
        start, stop, step = picked.indices(length)
        if step != 1:
            raise IndexError("voxels are read without a step")
        return start, max(start, stop)
    at = range(length)[operator.index(picked)]
    return at, at + 1
